"""Draws the transport plan of one real pair now and then, as a heat map: `PlanPictures`."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from distill.encoders.text import TextEncoder
from distill.monitoring import Curves
from distill.objectives.combination import CombinedObjective
from distill.objectives.encodings import Encodings
from distill.stream.batch import Batch
from distill.transport.picture import PlanPicture

#: Fonts that are tried in turn for a token's script; the first is matplotlib's own.
FONTS = ["DejaVu Sans", "Noto Sans Devanagari", "Lohit Devanagari", "Mangal", "FreeSans"]
#: A longer pair's labels would not be readable.
MAX_TOKENS = 48


class PlanPictures:
    """Draws the first pair of a batch every `every_steps` steps; on rank 0.

    Args:
        curves: where pictures go, as ``transport/plan``.
        every_steps: 0 for none.
        student_text: names the rows' tokens.
        teacher_text: names the columns' tokens.
    """

    def __init__(
        self, curves: Curves, every_steps: int, student_text: TextEncoder, teacher_text: TextEncoder
    ) -> None:
        self._curves, self._every = curves, every_steps
        self._student_text, self._teacher_text = student_text, teacher_text

    def show(
        self, step: int, objective: CombinedObjective, batch: Batch, encodings: Encodings
    ) -> None:
        """Draw the plan of step `step`, where it is due and transport is trained with."""
        if not self._every or step % self._every or not self._curves.enabled:
            return
        transport = objective.transport_at(step)
        if transport is None:
            return
        picture = transport.picture(encodings, pair=0)
        rows = self._tokens(self._student_text, batch.source.input_ids[0], picture.student_places_n)
        columns = self._tokens(
            self._teacher_text, batch.target.input_ids[0], picture.teacher_places_m
        )
        self._curves.image("transport/plan", draw(picture, rows, columns), step)

    def _tokens(self, text: TextEncoder, input_ids_N: Tensor, places_n: Tensor) -> list[str]:
        pieces = text.tokenizer.convert_ids_to_tokens(input_ids_N[places_n].tolist())
        return [str(piece).replace("\u2581", "_") for piece in pieces]


def draw(picture: PlanPicture, rows: list[str], columns: list[str]) -> Tensor:
    """The plan as an image (3, H, W) with values in [0, 1]; dark where mass goes.

    Only the first `MAX_TOKENS` tokens of each side are drawn. Letters that no installed font of
    `FONTS` has come out as boxes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plan = picture.plan_nm[:MAX_TOKENS, :MAX_TOKENS].float().cpu().numpy()
    rows, columns = rows[:MAX_TOKENS], columns[:MAX_TOKENS]
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"font.family": _installed_fonts(), "font.size": 8}),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(2 + 0.22 * len(columns), 1.2 + 0.2 * len(rows)), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        image = axes.imshow(plan, cmap="Greys", vmin=0, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=90)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel("teacher: English tokens")
        axes.set_ylabel("student: translation's tokens")
        figure.colorbar(image, label="mass")
        figure.tight_layout()
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _installed_fonts() -> list[str]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FONTS if name in installed]
