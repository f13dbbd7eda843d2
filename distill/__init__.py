"""Distils query encoders for retrieval with bitext and optimal transport, on many processes."""

__version__ = "0.1.0"
