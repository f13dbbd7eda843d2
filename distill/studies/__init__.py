"""Studies: many training runs that differ in a few settings, and one report that compares them."""
