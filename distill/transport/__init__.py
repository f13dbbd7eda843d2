"""Batched optimal transport between the tokens of sentence pairs: tensors in, tensors out.

Start with `loss.transport_loss`. `settings` is importable without torch; nothing here needs
Triton, numba or POT to be imported.
"""
