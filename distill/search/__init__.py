"""Searches English documents in any language: in the terminal, as JSON, or in a browser."""
