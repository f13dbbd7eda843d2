"""Runs studies: many training runs that differ in a few settings, and one report on them."""
