"""Trains with relevance labels (triples, judgments, n-way scores), with or after bitext."""
