"""Training with relevance labels: triples, judgments and n-way scores, beside or after bitext."""
