"""Distributed optimal-transport distillation of retrieval query encoders with bitext."""

__version__ = "0.1.0"
