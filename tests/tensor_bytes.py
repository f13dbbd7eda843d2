"""Measures what tensors hold, on any device and without a clock: `TensorBytes`."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class TensorBytes(TorchDispatchMode):
    """Inside, follows the storages that operations make, while they are alive.

    Args:
        given: tensors that were there before, which do not count.

    Attributes:
        most: bytes that were alive at a time.
    """

    def __init__(self, given: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in given}
        self._now, self.most = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self._now += storage.nbytes()
                    weakref.finalize(storage, self._end, storage._cdata, storage.nbytes())
        self.most = max(self.most, self._now)
        return result

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
