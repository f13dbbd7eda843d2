"""Keeps a model's computed tables in float32 when its weights are converted: `whole_tables`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def whole_tables(module: nn.Module) -> Iterator[None]:
    """Inside, the module may be converted; its float32 tables that are no weights stay float32.

    The frequencies of rotary positions are such a table. `Module.to` and DeepSpeed's engines round
    them with the weights: in bfloat16 by up to 1 part in 512, which at the 180th token turns a
    vector's fastest pair by a third of a radian.
    """
    tables = [
        (part, name, table.clone())
        for part in module.modules()
        for name, table in part.named_buffers(recurse=False)
        if name in part._non_persistent_buffers_set and table.dtype == torch.float32
    ]
    yield
    for part, name, table in tables:
        setattr(part, name, table.to(getattr(part, name).device))
