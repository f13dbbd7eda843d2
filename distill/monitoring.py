"""Shows a run to people: `Curves` in TensorBoard and other trackers, `Progress` bar, running means.

Rank 0 alone writes; other ranks hold the same object and it does nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from distill.distributed import collectives

#: Free bytes below which curves that could not be written are not tried again.
_ROOM_FOR_CURVES = 1 << 20


class Progress:
    """A progress bar on a terminal; elsewhere a line now and then with rate and time left.

    Args:
        total: number of steps, or of another unit.
        description: what is being done.
        initial: steps done before.
        every_seconds: least time between two lines where there is no terminal.
        enabled: False on ranks that stay silent.
        unit: what is counted.
    """

    def __init__(
        self,
        total: int,
        description: str,
        *,
        initial: int = 0,
        every_seconds: float = 15.0,
        enabled: bool = True,
        unit: str = "step",
    ) -> None:
        self.total, self.description, self.done = total, description, initial
        self.unit = unit
        self._enabled, self._every = enabled, every_seconds
        self._start, self._first, self._last_line = time.monotonic(), initial, time.monotonic()
        self._figures = ""
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=total, desc=description, initial=initial, unit=unit, dynamic_ncols=True
            )

    def advance(self, figures: str = "", count: int = 1) -> None:
        """Count `count` steps; `figures` are shown next to the bar from now on."""
        self.done += count
        self._figures = figures or self._figures
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures, refresh=False)
            self._bar.update(count)
        elif self._enabled:
            now = time.monotonic()
            if now - self._last_line >= self._every or self.done == self.total:
                self._last_line = now
                print(self._line(now), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else 0.0
        unit = self.unit
        speed = f"{rate:.2f} {unit}s/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.2f} s/{unit}"
        text = f"{self.description}: {self.done}/{self.total}, {speed}, {left:.0f} s left"
        return f"{text}, {self._figures}" if self._figures else text

    def say(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._enabled:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


class Tracker(Protocol):
    """What `Curves` asks of another experiment tracker; accelerate's have it."""

    @property
    def name(self) -> str:
        """The tracker's name."""

    def log(self, values: dict, step: int | None = None) -> None:
        """Take one point of each curve."""

    def finish(self) -> None:
        """Write or send what is left."""


class Curves:
    """TensorBoard scalars and pictures of a training run, written by rank 0.

    A disk that is full or read-only, or another tracker that fails, leaves a gap in the curves and
    does not end the run: that is for the checkpoint to decide.

    Args:
        directory: TensorBoard's.
        enabled: whether TensorBoard's files are written: on rank 0, where they are wanted.
        purge_step: points from this step on are hidden, see below.
        others: trackers that get the scalars, too; none on other ranks.
    """

    def __init__(
        self,
        directory: Path,
        enabled: bool,
        purge_step: int | None = None,
        others: Sequence[Tracker] = (),
    ) -> None:
        self._directory, self._enabled, self._others = directory, enabled, others
        # After a resume, points of the steps that are trained again are hidden.
        self._writer = SummaryWriter(str(directory), purge_step=purge_step) if enabled else None

    @property
    def enabled(self) -> bool:
        """Whether pictures are written: by TensorBoard, on rank 0."""
        return self._enabled

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write one point on each curve."""

        def write(writer: SummaryWriter) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        self._try(write)
        for tracker in self._others:
            with _gap(tracker):
                tracker.log(dict(values), step=step)

    def image(self, name: str, image_CHW: Tensor, step: int) -> None:
        """Write a picture (3, H, W) with values in [0, 1]."""
        self._try(lambda writer: writer.add_image(name, image_CHW, step))

    def close(self) -> None:
        """Flush and close the event file; end the other trackers."""
        if self._writer is not None:
            self._try(lambda writer: writer.close())
        for tracker in self._others:
            with _gap(tracker):
                tracker.finish()

    def _try(self, write: Callable[[SummaryWriter], None]) -> None:
        if not self._enabled:
            return
        try:
            if self._writer is None:
                # A writer that failed once writes no more; each attempt would leave a traceback.
                full = shutil.disk_usage(self._directory).free < _ROOM_FOR_CURVES
                if full or not os.access(self._directory, os.W_OK):
                    return
                self._writer = SummaryWriter(str(self._directory))
            write(self._writer)
        except OSError as error:
            self._writer = None
            print(f"curves have a gap: {error}", file=sys.stderr, flush=True)


@contextmanager
def _gap(tracker: Tracker) -> Iterator[None]:
    """Say what a tracker failed with, and go on."""
    try:
        yield
    except Exception as error:  # Each service has exceptions of its own.
        print(f"{tracker.name}'s curves have a gap: {error}", file=sys.stderr, flush=True)


def stream_figures(drawn: Mapping[str, int], faults: Mapping[str, int]) -> dict[str, float]:
    """What the stream has given so far. Collective.

    ``stream/share/<pair>`` is a language's share of all samples since the first step;
    ``stream/faults/<reason>`` counts samples that all ranks could not read since they were started,
    ``stream/faults/all`` those of any reason.

    Args:
        drawn: samples of each pair, all ranks together.
        faults: samples that this rank could not read, by reason.
    """
    total = max(sum(drawn.values()), 1)
    values = {f"stream/share/{pair}": count / total for pair, count in drawn.items()}
    counted: Counter[str] = Counter()
    for of_rank in collectives.gather_objects(dict(faults)):
        counted.update(of_rank)
    values["stream/faults/all"] = float(counted.total())
    for reason, count in counted.items():
        values[f"stream/faults/{reason.replace(' ', '_')}"] = float(count)
    return values


class RunningMeans:
    """Sums between two log steps, reduced over ranks once: no sync and no collective per step.

    Args:
        pairs: language pairs, in the order of their codes.
        device: where sums are kept.
    """

    def __init__(self, pairs: Sequence[str], device: torch.device) -> None:
        self.pairs, self.device = list(pairs), device
        self._clear()

    def _clear(self) -> None:
        self._loss = torch.zeros(len(self.pairs), dtype=torch.float64, device=self.device)
        self._count = torch.zeros(len(self.pairs), dtype=torch.float64, device=self.device)
        self._metrics: dict[str, Tensor | float] = {}
        self._added: Counter[str] = Counter()

    def add(
        self, loss_B: Tensor, pair_codes_B: Tensor, metrics: Mapping[str, Tensor | float]
    ) -> None:
        """Take in one micro-batch's detached losses and metrics."""
        self._loss.index_add_(0, pair_codes_B, loss_B.double())
        self._count.index_add_(0, pair_codes_B, torch.ones_like(loss_B, dtype=torch.float64))
        for name, value in metrics.items():
            number = value.double() if isinstance(value, Tensor) else value
            self._metrics[name] = self._metrics.get(name, 0.0) + number
        self._added.update(metrics.keys())

    def reduce(self) -> dict[str, float]:
        """Means over all ranks since the last call, and start again. Collective.

        ``train/loss`` is the mean over pairs of all ranks; ``train/loss_by_pair/<pair>`` that of
        one language; ``train/share/<pair>`` its realised share; other names are means
        over the steps that had them, the same steps on every rank.
        """
        names = sorted(self._metrics)
        figures = [
            torch.as_tensor(self._metrics[name], dtype=torch.float64, device=self.device)
            for name in names
        ]
        packed = torch.cat([self._loss, self._count, *(figure.reshape(1) for figure in figures)])
        total = collectives.sum_over_ranks(packed).tolist()
        num = len(self.pairs)
        loss, count, rest = total[:num], total[num : 2 * num], total[2 * num :]
        all_pairs = max(sum(count), 1.0)
        values = {"train/loss": sum(loss) / all_pairs}
        for index, pair in enumerate(self.pairs):
            if count[index]:
                values[f"train/loss_by_pair/{pair}"] = loss[index] / count[index]
            values[f"train/share/{pair}"] = count[index] / all_pairs
        world_size = collectives.world_size()
        for name, value in zip(names, rest, strict=True):
            values[name] = value / (self._added[name] * world_size)
        self._clear()
        return values


class Throughput:
    """Pairs per second and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._waited = 0.0
        self._pairs = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def add(self, num_pairs: int) -> None:
        """Count pairs that all ranks trained on."""
        self._pairs += num_pairs

    def pause(self) -> float:
        """Time now; give it to `resume` to leave a pause such as an evaluation out."""
        return time.monotonic()

    def resume(self, paused_at: float) -> None:
        """Leave out the time since `paused_at`."""
        self._start += time.monotonic() - paused_at

    def reduce(self) -> dict[str, float]:
        """Figures since the last call, and start again."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        values = {
            "perf/pairs_per_second": self._pairs / elapsed,
            "perf/data_wait_fraction": self._waited / elapsed,
        }
        self.__init__()  # type: ignore[misc]
        return values
