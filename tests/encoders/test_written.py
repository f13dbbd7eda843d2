"""An encoder is written in one move, and what was written is compared with what it should be."""

from __future__ import annotations

import shutil

import pytest
import torch

from distill.encoders.directory import load_encoder
from distill.encoders.written import require_written, write_encoder
from distill.errors import InputError

DISK_MIB = 4


def test_what_is_written_is_compared(tmp_path, make_encoder):
    encoder, text = make_encoder("WordPiece")
    weights = dict(encoder.state_dict())
    write_encoder(tmp_path / "a", encoder, text, weights)
    require_written(tmp_path / "a", weights)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    other = {**weights, "projection.weight": weights["projection.weight"] + 0.01}
    with pytest.raises(InputError, match="sum"):
        require_written(tmp_path / "a", other)
    # What ZeRO-3 leaves of a weight that was not gathered.
    empty = {**weights, "projection.weight": torch.zeros(0)}
    with pytest.raises(InputError, match="empty tensors"):
        require_written(tmp_path / "a", empty)
    (tmp_path / "a/model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be written as it is"):
        require_written(tmp_path / "a", weights)


def test_a_full_disk_keeps_what_was_there(small_disk, make_encoder):
    encoder, text = make_encoder("WordPiece")
    write_encoder(small_disk / "best", encoder, text, dict(encoder.state_dict()))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))
    with pytest.raises(InputError, match="free space and run the same command again"):
        write_encoder(small_disk / "best", encoder, text, dict(encoder.state_dict()))
    assert sorted(path.name for path in small_disk.iterdir()) == ["best", "filler"]
    again, _ = load_encoder(str(small_disk / "best"))
    assert torch.equal(again.projection.weight, encoder.projection.weight)
