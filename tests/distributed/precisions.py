"""One process that starts a run in every precision that the launch files name, and looks at it.

    python precisions.py RECIPE.yaml CASES.json ANSWER.json

CASES: name → [accelerate's mixed precision, overrides, whether by DeepSpeed]. The answer has for
each the line that the run prints at its start, and what its first step was made of.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from deepspeed.utils import groups

import distill.train
import distill.training.steps
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.training import loop

#: No launcher started this process.
WORLD = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
found: dict[str, Any] = {}
bitext_losses, optimizer_step = distill.training.steps.bitext_losses, loop._optimizer_step
precision_line = distill.train.precision_line


def noted_line(*given: Any) -> str:
    found["line"] = precision_line(*given)
    return found["line"]


def noted_print(*given: Any, **keywords: Any) -> None:
    found["printed"] = found.get("printed") or given == (found.get("line"),)
    print(*given, **keywords)


def noted_losses(*given: Any) -> Any:
    micro = bitext_losses(*given)
    found["loss"] = name(micro.loss)
    return micro


def noted_step(training: Any, *given: Any) -> float:
    norm = optimizer_step(training, *given)
    engines = training.engines
    for side in ("student", "teacher"):
        found[side] = name(next(getattr(engines, side).parameters()))
    optimizer = engines.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    moments = {name(state["exp_avg"]) for state in optimizer.state.values() if "exp_avg" in state}
    (found["optimizer"],) = moments
    found["norm"] = norm
    return norm


def name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def main() -> None:
    recipe, cases, answer = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    distill.train.precision_line = noted_line
    distill.train.print = noted_print  # type: ignore[attr-defined]
    distill.training.steps.bitext_losses = noted_losses
    loop._optimizer_step = noted_step
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    answers = {}
    for case, (mixed, overrides, sharded) in json.loads(cases.read_text()).items():
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None  # Made once a process.
        os.environ["ACCELERATE_MIXED_PRECISION"] = mixed
        if sharded:
            os.environ.update(WORLD, ACCELERATE_USE_DEEPSPEED="true")
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        distill.train.run(load_settings(Recipe, recipe, [f"name=run-{len(answers)}", *overrides]))
        answers[case] = dict(found)
        found.clear()
    answer.write_text(json.dumps(answers))
    sys.stdout.flush()
    os._exit(0)  # Engines that a library keeps outlive their process group.


if __name__ == "__main__":
    main()
