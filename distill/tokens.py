"""Defines `Tokens`: a padded batch of token ids, with masks that say which tokens do what.

Shapes: B texts, N tokens after padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def on_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`, by a copy from pinned memory that the host does not wait for."""
    device = torch.device(device)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device, non_blocking=True)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


@dataclass(frozen=True)
class Tokens:
    """Token ids of B texts padded to N.

    Attributes:
        input_ids: int64 (B, N).
        attention_mask: int64 (B, N), 1 where the backbone attends.
        scoring_mask: bool (B, N), the tokens that take part in MaxSim (ColBERT: all but padding;
            with [MASK] expansion the expansions too; documents drop their skip list).
        content_mask: bool (B, N), the tokens of the text itself: no padding, special token,
            marker or expansion.
    """

    input_ids: Tensor
    attention_mask: Tensor
    scoring_mask: Tensor
    content_mask: Tensor

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def _map(self, function) -> Tokens:  # type: ignore[no-untyped-def]
        return Tokens(
            function(self.input_ids),
            function(self.attention_mask),
            function(self.scoring_mask),
            function(self.content_mask),
        )

    def to(self, device: torch.device | str) -> Tokens:
        """The same tokens on `device`, see `on_device`."""
        return self._map(lambda tensor: on_device(tensor, device))

    def pin_memory(self) -> Tokens:
        """Called by DataLoader's pinning thread."""
        return self._map(lambda tensor: tensor.pin_memory())

    def __getitem__(self, rows: slice | Tensor) -> Tokens:
        """The texts `rows`, padding kept."""
        return self._map(lambda tensor: tensor[rows])
