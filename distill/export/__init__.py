"""A finished run as one directory that PyLate, sentence-transformers and ColBERT readers load."""
