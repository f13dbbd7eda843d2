"""Turns bitext into WebDataset shards with a manifest: ``python -m data_shards``."""
