"""Hard negatives: English sentences that are near a pair's own, to be ranked below it."""
