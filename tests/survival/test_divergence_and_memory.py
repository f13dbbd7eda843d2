"""What is not finite does not reach the weights; what does not fit is said in one line."""

from __future__ import annotations

import json

import pytest
import torch

from distill.errors import InputError
from distill.survival.divergence import (
    MAX_NON_FINITE,
    DivergedError,
    NonFiniteCount,
    NonFiniteGradientError,
    refuse_non_finite_steps,
)
from distill.survival.memory import advice_on_out_of_memory


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_optimizer_refuses_a_step_that_would_ruin_weights(value):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    refuse_non_finite_steps(optimizer)
    weight.grad = torch.tensor([1.0, value, 1.0])
    with pytest.raises(NonFiniteGradientError):
        optimizer.step()
    assert weight.tolist() == [1.0, 1.0, 1.0]
    weight.grad = torch.ones(3)
    optimizer.step()
    assert all(entry < 1 for entry in weight.tolist())


def test_the_run_ends_after_several_failures_in_a_row_with_the_keys(tmp_path):
    count = NonFiniteCount(tmp_path, rank=1)
    for step in range(3 * MAX_NON_FINITE):
        count.add("loss", step, [["fine"]])
        count.clear()
    for _ in range(MAX_NON_FINITE - 1):
        count.add("gradient", 20, [["a"], ["b"]])
    with pytest.raises(DivergedError, match="step 20: no finite gradient 5 times in a row"):
        count.add("gradient", 20, [["a"], ["b"]])
    saved = json.loads((tmp_path / "diverged-rank-1.json").read_text())
    assert saved == {"step": 20, "what": "gradient", "keys": [["a"], ["b"]]}


@pytest.mark.parametrize(
    ("tokens", "smaller"), [(None, "data.micro_batch=16"), (1000, "data.tokens_per_batch=500")]
)
def test_running_out_of_memory_ends_with_advice(tokens, smaller):
    def ask_for_a_petabyte() -> None:
        with advice_on_out_of_memory(32, 2, lambda: "step 7, rank 1", tokens):
            torch.empty(1 << 50, dtype=torch.uint8)

    with pytest.raises(InputError) as caught:
        ask_for_a_petabyte()
    message = str(caught.value)
    assert message.startswith("step 7, rank 1: out of memory")
    assert f"set {smaller} data.accumulation_steps=4 (the same global batch)" in message


def test_other_errors_keep_their_traceback():
    def fail() -> None:
        with advice_on_out_of_memory(1, 1, lambda: ""):
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fail()
