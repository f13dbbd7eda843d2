"""Several processes, each with a device of its own: the same losses, a rank replaced, one killed.

A miniature run (that of the tests) in float32 under ZeRO-2 beside ZeRO-3, over NCCL on GPUs and
gloo on a CPU: on one process and on all; with a rank killed under an elastic launcher, which
replaces it within the job; with a rank killed under the plain one, and the same command again.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from parts import ROOT, Row, part_arguments, row, write_rows

sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT)]

from faults_source import build_world  # noqa: E402
from faulty_run import ELASTIC, Run, zero  # noqa: E402
from launches import DEEPSPEED  # noqa: E402

from distill.checkpoints.checkpoint import weights_hash  # noqa: E402

#: Losses of the same step differ by no more: sums are rounded in another order.
LOSS_TOLERANCE = 1e-5
#: Pairs of a rank; those of the lone process are as many times more.
MICRO_BATCH = 4
#: What decides on nothing here, and float32 throughout.
SETTINGS = (
    *zero(2),
    *("evaluation.collections=[]", "evaluation.every_steps=0", "launch.tf32=false"),
)
#: Where the rank is killed; a checkpoint is written every three steps.
PLACE = "step 8"


class Runs:
    """Makes the runs, and rows of how far each is from the calm one on all ranks."""

    def __init__(self, case: str, folder: Path, ranks: int) -> None:
        self.case, self.folder, self.ranks = case, folder, ranks
        self.plain = launcher(DEEPSPEED, ranks)
        folder.mkdir(exist_ok=True)
        self.world = build_world(folder / "world")
        self.calm = self.new("calm")

    def new(self, name: str, num_processes: int | None = None) -> Run:
        pairs = MICRO_BATCH * self.ranks // (num_processes or self.ranks)
        return Run(self.world, self.folder / name, *SETTINGS, f"data.micro_batch={pairs}")

    def distance(self, run: Run, metric: str) -> Row:
        """The largest difference of a step's loss, and whether the students' bytes are equal."""
        expected, losses = self.calm.curve("train/loss"), run.curve("train/loss")
        far = max(abs(a - b) for a, b in zip(expected, losses, strict=True))
        same = weights_hash(run.weights()) == weights_hash(self.calm.weights())
        met = far <= LOSS_TOLERANCE
        return row(
            self.case, metric, far, "largest wanted", LOSS_TOLERANCE, target=1.0, met=met,
            same_bytes=same,
        )  # fmt: skip

    def rows(self) -> Iterator[Row]:
        """One finding after another."""
        self.calm.finish(launcher=self.plain)
        one = self.new("one", num_processes=1)
        one.finish(launcher=launcher(DEEPSPEED, 1))
        yield self.distance(one, f"losses of 1 and {self.ranks} processes, difference")
        yield self._replaced()
        yield self._killed()

    def _replaced(self) -> Row:
        run = self.new("elastic")
        run.start(launcher=launcher(ELASTIC, self.ranks), hold=[[PLACE], []])
        run.reach(PLACE)
        first = run.pid(1)
        run.hit("SIGKILL of a rank")
        run.release()
        if run.end() != 0 or run.pid(1) == first:
            raise RuntimeError(f"the killed rank was not replaced: {run.output[-3000:]}")
        return self.distance(run, "a rank replaced within the job, difference of losses")

    def _killed(self) -> Row:
        run = self.new("killed")
        run.start(launcher=self.plain, hold=[PLACE])
        run.reach(PLACE)
        run.hit("SIGKILL of a rank")
        if run.end() == 0:
            raise RuntimeError("a launch whose rank was killed ended well")
        run.finish(launcher=self.plain)
        if "resumed from" not in run.output:
            raise RuntimeError(f"did not go on from its checkpoint: {run.output[-3000:]}")
        return self.distance(run, "a rank killed, launched again, difference of losses")


def launcher(command: list[str], num_processes: int) -> list[str]:
    """`accelerate launch` for so many processes."""
    return [*command, "--num_processes", str(num_processes)]


def main() -> None:
    """Write the rows as they are found: what comes later may not come."""
    parser = part_arguments(__doc__)
    parser.add_argument("--ranks", type=int, required=True, help="processes")
    options = parser.parse_args()
    found: list[Row] = []
    runs = Runs(options.case, options.folder / "ranks", options.ranks)
    for finding in itertools.chain([backend(options.case, options.ranks)], runs.rows()):
        found.append(finding)
        write_rows(options.output, found)


def backend(case: str, ranks: int) -> Row:
    """How many devices there are for the ranks."""
    devices = torch.cuda.device_count()
    name = "over NCCL" if devices else "over gloo, on a CPU"
    return row(case, f"processes, {name}", ranks, "CUDA devices", devices or None)


if __name__ == "__main__":
    main()
