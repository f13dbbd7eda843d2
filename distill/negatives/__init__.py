"""Finds hard negatives: English sentences close to a pair's own, to be ranked below it."""
