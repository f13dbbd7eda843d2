"""Steps of a run with random weights: pairs a second, model FLOPs, OT's share, waits, memory.

The run is `distill/train.py` with all that belongs to it (`benchmarks/measured_run.py`); with
``--sharded`` the student trains under ZeRO-2 beside the teacher under ZeRO-3, in DeepSpeed's
engines. ``key=value`` are overrides of its recipe.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from inputs import LENGTH, WIDTHS, model, shards
from parts import ROOT, Row, part_arguments, row, without_target, write_rows
from rates import model_flops, peak

sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

from real_run import measured_run, training_only  # noqa: E402

from distill.recipe.files import load_settings  # noqa: E402
from distill.recipe.recipe import Recipe  # noqa: E402
from distill.tools.estimate import MEASURED_EFFICIENCY, make_estimate, model_size  # noqa: E402

#: Of a step, at most (`benchmarks/transport.py`).
TRANSPORT_SHARE = 0.05
#: An estimate of memory is of use while it is right within this factor, both ways.
ESTIMATE_FACTOR = 2.0
#: Steps that warm up, are timed, and in which the host's waits are counted.
STEPS = {True: (2, 3, 1), False: (10, 40, 2)}
ON_GPU = torch.cuda.is_available()


def recipe_of(folder: Path, width: int, options: Any) -> dict[str, Any]:
    """The run's settings."""
    recipe = training_only(folder, model(folder, width), shards(folder, options.lengths))
    # Readers enough for a GPU; what they are short of shows in pairs a second.
    workers = 0 if options.small else 4
    recipe["data"] |= {"micro_batch": 8 if options.small else 64, "num_workers": workers}
    if options.by_tokens:
        pairs = recipe["data"]["micro_batch"]
        budget = {"tokens_per_batch": pairs * LENGTH, "micro_batch": 8 * pairs}
        recipe["data"] |= {**budget, "stored_tokens": True}
    recipe["max_steps"] = sum(STEPS[options.small])
    recipe["log_every_steps"] = 1 if options.losses else 10
    if options.precision == "bfloat16" and options.sharded:
        for side, file in (("student", "student_zero2_bf16"), ("teacher", "teacher_zero3_bf16")):
            recipe["launch"][f"{side}_deepspeed"] = str(ROOT / f"launch/deepspeed/{file}.json")
    elif options.precision == "bfloat16":
        recipe["launch"]["teacher_precision"] = "bfloat16"
    recipe["launch"]["tf32"] = options.precision != "float32"
    return recipe


def launcher(options: Any) -> list[str]:
    """What starts the run, on one process."""
    if not options.sharded:
        # What `accelerate launch --mixed_precision bf16` says to the process that it starts.
        mixed = "bf16" if options.precision == "bfloat16" else "no"
        return ["env", f"ACCELERATE_MIXED_PRECISION={mixed}", sys.executable]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    return [*accelerate, "--config_file", str(ROOT / "accelerate_config.yaml")]


def speed_rows(case: str, answer: dict[str, Any], size: Any, precision: str) -> list[Row]:
    """Pairs a second, utilisation, OT's share of a step."""
    seconds = sum(answer["seconds"])
    step = statistics.median(answer["seconds"])
    tokens = sum(answer["tokens"])
    length = tokens / sum(answer["pairs"])
    # The teacher reads sentences of the same lengths.
    flops = sum(model_flops(size, tokens, length, trains) for trains in (True, False)) / seconds
    device = torch.cuda.get_device_name() if ON_GPU else "cpu"
    most = peak(device, precision)
    share = answer["transport_seconds"] * statistics.mean(answer["micro_batches"]) / step
    bare = statistics.median(answer["bare_seconds"]) if answer["bare_seconds"] else None
    rows = [row(case, "seconds of a step", step, "student's bare forward, backward", bare)]
    return [
        *([] if bare is None else rows),
        row(case, "pairs a second", sum(answer["pairs"]) / seconds, "", None,
            tokens_per_second=tokens / seconds, step_seconds=step),
        row(case, "model FLOP utilisation, 10^12 a second", flops / 1e12,
            f"{most.source} peak in {precision}", most.rate / 1e12),
        row(case, "transport loss, share of a step", share, "limit", TRANSPORT_SHARE,
            target=1.0, met=share <= TRANSPORT_SHARE),
    ]  # fmt: skip


def waits_row(case: str, answer: dict[str, Any], sharded: bool) -> Row:
    """How often the host waited for its device in a step, and where if more than once.

    DeepSpeed's engines wait by themselves, which is nobody's target here.
    """
    most = max(answer["waits"])
    target, met = (None, None) if sharded else (1.0, most <= 1)
    where = {
        place.replace(f"{ROOT}/", "").replace(sys.prefix, "..."): count
        for place, count in answer["waits_where"].items()
    }
    more = {"where": where} if most > 1 else {}
    return row(case, "host waits a step", most, "limit", 1, target=target, met=met, **more)


def memory_row(case: str, answer: dict[str, Any], path: Path, size: Any, options: Any) -> Row:
    """What the run took at its peak against what `distill estimate` says of it.

    On a GPU all that is allocated; on a CPU the rise of a step, its activations and gradients.
    """
    estimate = make_estimate(
        load_settings(Recipe, path),
        size["trains"],
        size["frozen"],
        stages=(2, 3) if options.sharded else (0, 0),
        half=options.sharded and options.precision == "bfloat16",
        num_processes=1,
        num_tokens=LENGTH,
        rate=1e12,
        efficiency=MEASURED_EFFICIENCY,
    )
    took = answer.get("peak_mib") or answer.get("rise_mib")
    told = 1024 * (estimate.total if ON_GPU else estimate.activations + estimate.gradients)
    met = None if not took else 1 / ESTIMATE_FACTOR <= took / told <= ESTIMATE_FACTOR
    return row(
        case, "peak of memory, MiB" if ON_GPU else "rise of memory in a step, MiB", took,
        "distill estimate", told, target=ESTIMATE_FACTOR, met=met if ON_GPU else None,
    )  # fmt: skip


def main() -> None:
    """Run, and write what it took."""
    parser = part_arguments(__doc__)
    parser.add_argument("--width", type=int, choices=(0, 1), default=0, help="narrow or wide")
    parser.add_argument("--lengths", choices=("full", "varied"), default="full")
    parser.add_argument("--by-tokens", action="store_true", help="as many tokens, not pairs")
    parser.add_argument("--precision", choices=("bfloat16", "tf32", "float32"), default="bfloat16")
    parser.add_argument("--sharded", action="store_true", help="by DeepSpeed")
    parser.add_argument("--losses", action="store_true", help="the loss of every step")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    options = parser.parse_args()
    width = WIDTHS[options.small][options.width]
    warm_up, _, looks = STEPS[options.small]
    run = options.folder / f"run-{options.output.stem}"
    answer = measured_run(
        run,
        recipe_of(options.folder, width, options),
        {"warm_up": warm_up, "looks": looks, "bare": not options.sharded},
        launcher(options),
        overrides=options.overrides,
    )
    backbone, dimension = options.folder / f"backbone-{width}", 128
    recipe = load_settings(Recipe, run / "recipe.yaml")
    size = {
        "trains": model_size(backbone, dimension, recipe.student),
        "frozen": model_size(backbone, dimension),
    }
    speed = speed_rows(options.case, answer, size["trains"], options.precision)
    rows = [
        *(map(without_target, speed) if options.small else speed),
        waits_row(options.case, answer, options.sharded),
        memory_row(options.case, answer, run / "recipe.yaml", size, options),
    ]
    write_rows(options.output, rows, runs={options.case: answer["precision"]})


if __name__ == "__main__":
    main()
