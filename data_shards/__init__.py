"""Turns bitext into WebDataset shards with a manifest: ``distill shards``."""
