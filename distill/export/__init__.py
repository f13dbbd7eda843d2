"""Exports a finished run to a directory that PyLate, sentence-transformers and ColBERT load."""
