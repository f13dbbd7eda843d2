"""Solves batched optimal transport between the tokens of sentence pairs: tensors in and out.

Read `settings`, then `loss.transport_loss`, then `sinkhorn`, the specification.

settings, loss, divergence, picture    what a recipe says; the loss, its values, one pair's plan
cost, marginals, diagnostics           what goes into a problem, and what is said of a plan
problem, sinkhorn, proximal,           the solvers in plain tensor operations: entropic and
assignment, early_stop, solvers        unbalanced, IPOT, exact and greedy
backends, route, reference, bucketed   who computes a batch; step by step; by length
cpu/                                   compiled for the CPU by numba, if it is installed
gpu/                                   fused for CUDA by Triton, if it is installed

`settings` is importable without torch; nothing here needs numba, Triton or POT to be imported.
"""
