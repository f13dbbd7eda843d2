"""Fits a student's first projection to the teacher's words in closed form: `fit_projection`.

Shapes: B sentences, N student tokens, M teacher tokens, W words of a batch, H hidden width of the
student's backbone, D embedding dimension.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.projection import linear
from distill.encoders.text import TextEncoder
from distill.errors import InputError
from distill.tokens import Tokens

_WORD = re.compile(r"\w+|[^\w\s]")
#: Ridge relative to the mean of the diagonal: keeps directions that no word has near 0.
_RIDGE = 1e-3
#: Keys of the tokens that are no words: first, marker, last, expansions.
_NUM_SPECIAL = 4


def fit_projection(
    student: LateInteractionEncoder,
    student_text: TextEncoder,
    teacher: LateInteractionEncoder,
    teacher_text: TextEncoder,
    sentences: Sequence[str],
    batch_size: int = 64,
) -> tuple[nn.Linear, float]:
    """Least squares over aligned words of sentences that both encoders read.

    ``W = argmin sum over words w of |W h_w - t_w|^2 + ridge |W|^2``: h_w is the mean of the
    student's last hidden states over the tokens of word w, t_w the mean of the teacher's unit
    vectors over its own tokens of the same word. Characters align the two tokenisations, so that
    they may differ; first token, marker, last token and expansions count as words. A student that
    is multilingual by its pretraining carries the map to its other languages. (Linear maps between
    embedding spaces: Mikolov et al. 2013, arXiv 1309.4168.)

    Args:
        sentences: in a language that both read: English.

    Returns:
        (projection (H, D) without bias, mean cosine of fitted and wanted words). No gradient.

    Raises:
        InputError: a tokenizer that does not tell which characters a token covers.
    """
    for text in (student_text, teacher_text):
        if not text.has_offsets:
            raise InputError(
                f"student.projection: least_squares with {type(text.tokenizer).__name__}",
                "tokenizers that tell which characters a token covers (tokenizer.json)",
                "set student.projection=fresh, or use a model with such a tokenizer",
            )
    student.eval()
    teacher.eval()
    hidden = student.projection.in_features
    gram_HH = torch.zeros(hidden, hidden, dtype=torch.float64)
    moment_HD = torch.zeros(hidden, teacher.embedding_dimension, dtype=torch.float64)
    kept: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(sentences), batch_size):
        batch = sentences[start : start + batch_size]
        words_WH, words_WD = _aligned(student, student_text, teacher, teacher_text, batch)
        gram_HH += words_WH.T.double() @ words_WH.double()
        moment_HD += words_WH.T.double() @ words_WD.double()
        if len(kept) < 8:
            kept.append((words_WH, words_WD))
    ridge = _RIDGE * gram_HH.diagonal().mean().clamp(min=1e-12)
    weight_HD = torch.linalg.solve(
        gram_HH + ridge * torch.eye(hidden, dtype=torch.float64), moment_HD
    )
    projection = linear(weight_HD.T.float())
    with torch.no_grad():
        cosines = [functional.cosine_similarity(projection(h), t, dim=-1) for h, t in kept]
    return projection, float(torch.cat(cosines).mean())


@torch.no_grad()
def _aligned(
    student: LateInteractionEncoder,
    student_text: TextEncoder,
    teacher: LateInteractionEncoder,
    teacher_text: TextEncoder,
    batch: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """((W, H) student words, (W, D) teacher words) that both sides have."""
    ours, theirs = student_text.queries(batch), teacher_text.queries(batch)
    hidden_BNH = student.backbone(
        input_ids=ours.input_ids, attention_mask=ours.attention_mask
    ).last_hidden_state.float()
    wanted_BMD = teacher(theirs.input_ids, theirs.attention_mask)
    spans = [[match.span() for match in _WORD.finditer(text)] for text in batch]
    width = max((len(words) for words in spans), default=0) + _NUM_SPECIAL
    num_keys = len(batch) * width
    sums_H, counts_H = _word_sums(
        hidden_BNH, word_keys(student_text, batch, ours, spans, width), num_keys
    )
    sums_D, counts_D = _word_sums(
        wanted_BMD, word_keys(teacher_text, batch, theirs, spans, width), num_keys
    )
    both = (counts_H > 0) & (counts_D > 0)
    return (
        sums_H[both] / counts_H[both].unsqueeze(1),
        sums_D[both] / counts_D[both].unsqueeze(1),
    )


def _word_sums(vectors_BND: Tensor, keys_BN: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    flat, keys = vectors_BND.flatten(0, 1), keys_BN.flatten()
    present = keys >= 0
    sums = flat.new_zeros(num_keys, flat.shape[1]).index_add_(0, keys[present], flat[present])
    counts = torch.bincount(keys[present], minlength=num_keys)
    return sums, counts.to(flat.dtype)


def word_keys(
    text: TextEncoder,
    batch: Sequence[str],
    tokens: Tokens,
    spans: list[list[tuple[int, int]]],
    width: int,
) -> Tensor:
    """For each token of `text.queries(batch)` the number of its word, -1 for none; int64 (B, N).

    Word w of sentence b has the number ``b * width + w``. The last four numbers of a sentence are
    those of its first token, marker, last token and expansions.
    """
    keys_BN = torch.full(tokens.input_ids.shape, -1, dtype=torch.int64)
    for row, (offsets, words) in enumerate(zip(text.query_offsets(batch), spans, strict=True)):
        word_of_character = {
            position: number
            for number, (start, stop) in enumerate(words)
            for position in range(start, stop)
        }
        base, special = row * width, (row + 1) * width - _NUM_SPECIAL
        for column, (start, stop) in enumerate(offsets):
            # A piece may begin with the space in front of it, so its last character decides.
            word = word_of_character.get(stop - 1) if stop > start else None
            if word is not None:
                keys_BN[row, column] = base + word
        keys_BN[row, 0] = special
        if text.has_query_marker:
            keys_BN[row, 1] = special + 1
        keys_BN[row, len(offsets) - 1] = special + 2
        if text.settings.do_query_expansion:
            keys_BN[row, len(offsets) :] = special + 3
    return keys_BN
