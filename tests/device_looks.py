"""Counts the places in which a host would wait for its device: `DeviceLooks`."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations whose result, or the size of whose result, the host needs.
_NEEDED_BY_HOST = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"),
    *("aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount"),
}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class DeviceLooks(TorchDispatchMode):
    """Inside, operations that a host waits for are counted by the line of ours that made them.

    On CPU nothing tells the host's tensors from the device's, so `where` has both; only counters
    of torch's optimizers, which are on the host wherever the weights are, are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.where: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        looks = name in _NEEDED_BY_HOST
        if name == "aten::repeat_interleave":
            looks = (kwargs or {}).get("output_size") is None
        if name in _INDEXING:
            looks = any(index is not None and index.dtype == torch.bool for index in args[1])
        if name == "aten::_to_copy":
            to = (kwargs or {}).get("device")
            waits = not (kwargs or {}).get("non_blocking")
            looks = to is not None and torch.device(to).type != args[0].device.type and waits
        if looks:
            frames = [frame for frame in traceback.extract_stack() if "distill/" in frame.filename]
            files = [frame.filename for frame in traceback.extract_stack()]
            if not any("/torch/optim/" in file for file in files):
                self.where[f"{name} at {frames[-1].filename}:{frames[-1].lineno}"] += 1
        if name == "aten::_local_scalar_dense" and args[0].is_meta:
            return 1.0
        return func(*args, **(kwargs or {}))
