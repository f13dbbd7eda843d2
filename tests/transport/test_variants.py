"""No step compiles a kernel: what batches of a run need is compiled before the first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill.transport.gpu import precompile
from distill.transport.settings import TransportSettings

pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
#: Classes of sizes times directions; beyond a tile, three widths more; a debiased value transports
#: each side to itself, too, and the student's side with a gradient to both.
COMPILED = {
    "plain": 4 * 2,
    "longer": 9 * 2,
    "beyond a tile": 9 * 2 + 3,
    "debiased": 9 * 4,
    "teacher's plan": 6 * 2,
}


def test_batches_add_nothing_to_what_was_compiled():
    # In a process of its own: in this one the kernels may be the interpreter's.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    program = Path(__file__).with_name("launched_variants.py")
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: run["compiled"] for name, run in found.items()} == COMPILED
    assert [name for name, run in found.items() if run["added"]] == []


@pytest.mark.parametrize("solver", ["sinkhorn", "unbalanced", "ipot"])
def test_every_shape_goes_through_the_loss(solver):
    settings = TransportSettings(solver=solver, backend="triton")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes = precompile.shapes_to_compile(settings, (16, 70), device)
    assert shapes == [(16, 16), (16, 32), (16, 64), (1, 65)]
    for shape in (shapes[0], shapes[-1]):
        precompile.compile_shape(settings, shape, 16, device)


def test_nothing_is_compiled_for_what_triton_does_not_compute():
    for settings, device in (
        (TransportSettings(), "cpu"),
        (TransportSettings(solver="sinkhorn_log"), "cuda"),
        (TransportSettings(backend="reference"), "cuda"),
    ):
        assert precompile.shapes_to_compile(settings, (32, 32), torch.device(device)) == []
    assert precompile.shapes_to_compile(TransportSettings(), (16, 16), torch.device("cuda"))
