"""Defines `StepSource`, what an optimizer step trains on, and `BitextSteps`, sentence pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch

from distill.checkpoints.train_state import TrainState
from distill.distributed import collectives
from distill.distributed.agreement import together
from distill.embedding.teacher_cache import encode_together
from distill.errors import InputError
from distill.objectives.combination import CombinedObjective
from distill.stream.batch import Batch
from distill.stream.bitext import BitextStream
from distill.survival.stopping import StopFlag, StoppedWaitingError
from distill.survival.watchdog import Watchdog
from distill.training.losses import MicroBatchLosses, bitext_losses
from distill.training.pair_encoding import PairEncoder
from distill.training.transport_pictures import PlanPictures

#: What a rank found where it asked for a batch; ranks act on the largest. Less than these is the
#: number of the teacher's forwards that encode what the batch has and the caches lack; or the wait
#: was stopped, or the data could not be read.
_STOPPED, _FAILED = 1 << 30, (1 << 30) + 1


class StepSource(Protocol):
    """Micro-batches of one kind and their losses. All ranks call its methods together."""

    @property
    def groups(self) -> Sequence[str]:
        """Names of the loss curves that `MicroBatchLosses.groups_B` counts from 0."""

    def takes(self, step: int) -> bool:
        """Whether optimizer step `step` (from 0) trains on this source."""

    def next_batch(self) -> Any:
        """Return this rank's next micro-batch.

        Raises:
            InputError: some rank cannot read its data; on all ranks.
            StoppedWaitingError: a stop signal found a rank waiting; on all ranks.
        """

    def num_pairs(self, batch: Any) -> int:
        """Rows of this micro-batch and of those that the other ranks got in the same call."""

    def losses(self, batch: Any, step: int) -> MicroBatchLosses:
        """Encode a micro-batch and compute its losses. Gradient to the student only."""

    def end_step(self, stepped: bool) -> None:
        """Note whether the optimizer stepped on the micro-batches since the last call."""

    def store(self, state: TrainState) -> None:
        """Put the position after the last step into the state of a checkpoint."""


class BitextSteps:
    """Steps on sentence pairs of the stream, with hard negatives where the encoder has them.

    Args:
        stream: this rank's micro-batches, at the position where training goes on.
        encode: teacher and student on a micro-batch; its `negatives` are mined ahead.
        objective: the losses.
        pictures: draws a transport plan now and then.
        num_left: micro-batches of the stream until the end of training.
        stop: interrupts a wait for data.
        watchdog: told before a rank may block.
        device: where batches go.
    """

    def __init__(
        self,
        stream: BitextStream,
        encode: PairEncoder,
        objective: CombinedObjective,
        pictures: PlanPictures,
        num_left: Callable[[], int],
        stop: StopFlag,
        watchdog: Watchdog,
        device: torch.device,
    ) -> None:
        self.groups = stream.pairs
        self._stream, self._encode, self._objective = stream, encode, objective
        self._pictures, self._stop, self._watchdog = pictures, stop, watchdog
        self._device, self._pictured = device, -1
        batches, self._negatives = self._agreed(), encode.negatives
        self._batches = (
            batches if self._negatives is None else self._negatives.batches(batches, num_left)
        )
        self._position = self._read_position()

    def takes(self, step: int) -> bool:
        """Return True: pairs are trained on in all steps that nothing else takes."""
        return True

    def next_batch(self) -> Batch:
        """See `StepSource`."""
        return next(self._batches)

    def num_pairs(self, batch: Batch) -> int:
        """See `StepSource`."""
        assert batch.num_pairs is not None, "a batch of a stream"
        return batch.num_pairs

    def losses(self, batch: Batch, step: int) -> MicroBatchLosses:
        """See `StepSource`; the first micro-batch of a step may be drawn."""
        pictures = self._pictures if step != self._pictured else None
        self._pictured = step
        return bitext_losses(self._encode, self._objective, batch, step, pictures)

    def end_step(self, stepped: bool) -> None:
        """See `StepSource`."""
        self._objective.end_step(stepped)
        if stepped:
            self._position = self._read_position()

    def store(self, state: TrainState) -> None:
        """See `StepSource`."""
        state.stream = self._position
        if self._encode.caches is not None:
            self._encode.caches.keep()
        if self._negatives is not None:
            state.negatives = self._negatives.state_dict()

    def _read_position(self) -> dict[str, Any]:
        # Negatives are found ahead of training, so the stream's own position may be further on.
        negatives = self._negatives
        return self._stream.state_dict() if negatives is None else negatives.position

    def _agreed(self) -> Iterator[Batch]:
        """The stream's batches; an error, or a stop, on one rank becomes one on all."""
        batches, caches = iter(self._stream), self._encode.caches
        while True:
            batch: Batch | None = None
            error: InputError | None = None
            found, lacking = 0, []
            self._watchdog.stage("reading a batch")
            try:
                with self._stop.waiting():
                    batch, error = self._stream.take(batches)
            except StoppedWaitingError:
                found = _STOPPED
            if error is not None:
                found = _FAILED
            elif batch is not None and caches is not None:
                lacking = caches.lacking(batch.target_texts)
                found = len(lacking)
            self._watchdog.stage("agreeing on a batch")
            found = collectives.max_over_ranks(found)
            if found == _FAILED:
                with together():
                    if error is not None:
                        raise error
            if found == _STOPPED:
                raise StoppedWaitingError
            assert batch is not None, "an endless stream does not end"
            if found and caches is not None:
                self._watchdog.stage("encoding for the teacher's cache")
                encode_together(lacking, found, caches.queries)
            yield batch.to(self._device)
