"""A training run as it stands, and what each of its steps takes.

    python measured_run.py ANSWER.json OPTIONS.json RECIPE.yaml [key=value ...]

Any launcher of ``distill/train.py`` starts it. Nothing of the run is left out: steps are those of
`distill.training.loop`, from one batch to the next, with stream, logging and ranks' agreements.
OPTIONS may have

- ``warm_up``: first steps that are not counted (default 3);
- ``bare``: after each step, the bare backbone's forward and backward on the step's tokens, without
  loss or optimizer, so that both are timed in turns (one process without DeepSpeed);
- ``looks``: last steps in which the host's waits for its device are counted; they are not timed.

Rank 0 writes the answer: of every counted step its seconds, processor seconds and pairs; the
same of the bare backbone; waits; seconds of the transport loss alone; memory; losses.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from device_looks import DeviceLooks  # noqa: E402

import distill.objectives.transport  # noqa: E402
import distill.train  # noqa: E402
import distill.training.steps  # noqa: E402
from distill.distributed import collectives  # noqa: E402
from distill.distributed.zero import unwrap  # noqa: E402
from distill.monitoring import Curves  # noqa: E402
from distill.training import loop  # noqa: E402

MEBIBYTE = 1 << 20


def clocks() -> tuple[float, float]:
    """Seconds that passed and seconds of this process's processors, with the device's work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> list[float]:
    return [now - then for now, then in zip(clocks(), start, strict=True)]


class Measured:
    """Stands around `loop._optimizer_step` and keeps what it sees."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.warm_up, self.bare = options.get("warm_up", 3), options.get("bare", False)
        self.looks = options.get("looks", 0)
        self.answer: dict[str, Any] = {
            "seconds": [], "processor_seconds": [], "pairs": [], "tokens": [], "losses": [],
            "micro_batches": [],
            "bare_seconds": [], "bare_processor_seconds": [], "waits": [], "waits_where": {},
        }  # fmt: skip
        self.batches: list[Any] = []
        self.transport: tuple[Any, ...] | None = None
        self.started: tuple[float, float] | None = None
        self.number = 0

    def step(self, training: Any, *figures: Any) -> float:
        """One step of the loop, from here to the next time that the loop comes here."""
        self._end_step(training)
        self.number, self.batches = self.number + 1, []
        if self.number == self.warm_up + 1:
            self._forget_peak()
        last = training.recipe.max_steps - training.state.step <= self.looks
        self.started = None if last else clocks()
        return self._counted(training, figures) if last else optimizer_step(training, *figures)

    def _end_step(self, training: Any) -> None:
        if self.started is None or self.number <= self.warm_up:
            return
        took = since(self.started)
        for name, value in zip(("seconds", "processor_seconds"), took, strict=True):
            self.answer[name].append(value)
        self.answer["pairs"].append(sum(len(batch.keys) for batch in self.batches))
        self.answer["micro_batches"].append(len(self.batches))
        lengths = (batch.source.attention_mask.sum() for batch in self.batches)
        self.answer["tokens"].append(int(sum(lengths)))
        if self.number == self.warm_up + 1:
            self._note_peak()
        if self.bare:
            self._take_bare(training)

    def _take_bare(self, training: Any) -> None:
        """The same tokens through the backbone alone; the gradient comes from nowhere."""
        backbone = unwrap(training.accelerator, training.engines.student).backbone
        gradients = [
            torch.rand(*batch.source.input_ids.shape, backbone.config.hidden_size, device=device)
            for batch in self.batches
            for device in [batch.source.input_ids.device]
        ]
        start = clocks()
        for batch, gradient in zip(self.batches, gradients, strict=True):
            with training.accelerator.autocast():
                hidden = backbone(
                    input_ids=batch.source.input_ids, attention_mask=batch.source.attention_mask
                ).last_hidden_state
            hidden.backward(gradient.to(hidden.dtype))
        took = since(start)
        for name, value in zip(("bare_seconds", "bare_processor_seconds"), took, strict=True):
            self.answer[name].append(value)
        training.engines.student.zero_grad()

    def _counted(self, training: Any, figures: tuple[Any, ...]) -> float:
        """A step in which every wait of the host is counted, by torch's own means on CUDA."""
        where: Counter[str] = Counter()
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                norm = optimizer_step(training, *figures)
            torch.cuda.set_sync_debug_mode("default")
            for warning in found:
                if "synchronizing CUDA operation" in str(warning.message):
                    where[f"{warning.filename}:{warning.lineno}"] += 1
        else:
            with DeviceLooks() as looks:
                norm = optimizer_step(training, *figures)
            where = looks.where
        self.answer["waits"].append(where.total())
        self.answer["waits_where"] = dict(where)
        return norm

    def losses(self, encode: Any, objective: Any, batch: Any, step: int, pictures: Any) -> Any:
        """`bitext_losses`, and the batch is kept."""
        self.batches.append(batch)
        return bitext_losses(encode, objective, batch, step, pictures)

    def transported(self, *arguments: Any, **keywords: Any) -> Any:
        """`transport_loss`, and what it was given is kept."""
        self.transport = (arguments, keywords)
        return transport_loss(*arguments, **keywords)

    def curve(self, curves: Curves, values: Any, step: int) -> None:
        """`Curves.scalars`, and the loss is kept."""
        if "train/loss" in values:
            self.answer["losses"].append(values["train/loss"])
        scalars(curves, values, step)

    def precision(self, *arguments: Any) -> str:
        self.answer["precision"] = precision_line(*arguments)
        return self.answer["precision"]

    def finish(self) -> dict[str, Any]:
        """The answer, with the transport loss of the last batch timed by itself."""
        if self.transport is not None:
            self.answer["transport_seconds"] = self._transport_seconds()
        if torch.cuda.is_available():
            self.answer["peak_mib"] = torch.cuda.max_memory_allocated() / MEBIBYTE
        return self.answer

    def _transport_seconds(self) -> float:
        arguments, keywords = self.transport or ((), {})
        student, *others = (
            part.detach() if isinstance(part, torch.Tensor) else part for part in arguments
        )
        student.requires_grad_()

        def run() -> None:
            transport_loss(student, *others, **keywords).loss.backward()

        return timed(run)

    def _forget_peak(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self.resident = memory()["VmRSS"]
        except (OSError, AttributeError):
            self.resident = 0

    def _note_peak(self) -> None:
        if not torch.cuda.is_available() and self.resident:
            self.answer["rise_mib"] = (memory()["VmHWM"] - self.resident) / 1024


def memory() -> dict[str, int]:
    """Kibibytes of this process by the kernel's names."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}


def timed(run: Callable[[], None], times: int = 10) -> float:
    """Median seconds."""
    run()
    found = []
    for _ in range(times):
        start = clocks()
        run()
        found.append(since(start)[0])
    return statistics.median(found)


optimizer_step, bitext_losses = loop._optimizer_step, distill.training.steps.bitext_losses
transport_loss = distill.objectives.transport.transport_loss
precision_line, scalars = distill.train.precision_line, Curves.scalars


def main() -> None:
    """Run, and write the answer where the run ended well."""
    answer, options, *arguments = sys.argv[1:]
    measured = Measured(json.loads(Path(options).read_text()))
    loop._optimizer_step = measured.step
    distill.training.steps.bitext_losses = measured.losses
    distill.objectives.transport.transport_loss = measured.transported
    distill.train.precision_line = measured.precision
    Curves.scalars = lambda *given: measured.curve(*given)  # type: ignore[method-assign]
    shut_down, first = collectives.shut_down, [True]

    def write() -> None:
        if first and collectives.rank() == 0:
            first.clear()
            Path(answer).write_text(json.dumps(measured.finish()))

    # The last line of a run, which ends the process where there are several.
    collectives.shut_down = lambda status=0: (write(), shut_down(status))[1]
    distill.train.main(arguments)


if __name__ == "__main__":
    main()
