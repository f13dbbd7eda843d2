"""Encodes one micro-batch with teacher and student: `PairEncoder`.

Shapes: B pairs, N student tokens, M teacher tokens, L document tokens, D dimension, K
hard negatives of a row, P of all rows.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distill.distributed.zero import Engines
from distill.encoders.text import TextEncoder
from distill.negatives.windows import HardNegatives
from distill.objectives.encodings import Encodings, Need, PassageVectors
from distill.stream.batch import Batch
from distill.tokens import Tokens, on_device
from distill.training.teacher_caches import TeacherCaches


@dataclass(frozen=True)
class PairEncoder:
    """Encodes the pairs of a micro-batch: the teacher without gradient, the student with.

    Attributes:
        engines: teacher and student.
        teacher_text: the teacher's tokenisation.
        student_text: the student's.
        same_tokens: whether both make the same tokens of a query.
        caches: looked up instead of running the teacher, where the recipe wants it.
        negatives: hard negatives of each pair, where the recipe wants them.
    """

    engines: Engines
    teacher_text: TextEncoder
    student_text: TextEncoder
    same_tokens: bool
    caches: TeacherCaches | None = None
    negatives: HardNegatives | None = None

    def __call__(self, batch: Batch, needs: frozenset[Need]) -> Encodings:
        """Encode a micro-batch that lies on the engines' device. Collective.

        Each engine runs one forward, whatever is needed: a sharded one is gathered once, and DDP
        and ZeRO see one forward for each backward.
        """
        device = batch.pair_codes.device
        document = english = source = None
        if Need.DOCUMENTS in needs:
            document = self.teacher_text.documents(batch.target_texts).to(device)
        if Need.TEACHER_SOURCE in needs:
            source = batch.source
        if Need.STUDENT_ENGLISH in needs:
            english = batch.target
            if not self.same_tokens:
                english = self.student_text.queries(batch.target_texts).to(device)
        negative_texts: list[list[str]] | None = None
        if self.negatives is not None and Need.DOCUMENTS in needs:
            negative_texts = self.negatives.texts(batch)
        flat = [text for row in negative_texts or () for text in row]
        with torch.no_grad():
            by_teacher = self._teacher(batch, document, source, flat)
        asked = [batch.source] if english is None else [batch.source, english]
        encoded = _in_one_forward(self.engines.student, asked, self.student_text)
        # A checksum tells equal sentences apart well enough within a batch.
        codes = torch.tensor([zlib.crc32(text.encode()) for text in batch.target_texts])
        return Encodings(
            student_BND=encoded[0],
            student=batch.source,
            teacher_BMD=by_teacher.target_BMD,
            teacher=batch.target,
            sentence_codes_B=on_device(codes, device),
            pair_codes_B=batch.pair_codes,
            document_BLD=by_teacher.document_BLD,
            document=document,
            teacher_source_BND=by_teacher.source_BND,
            student_english_BMD=None if english is None else encoded[1],
            student_english=english,
            negatives=None if negative_texts is None else by_teacher.negatives(negative_texts),
        )

    def _teacher(
        self, batch: Batch, document: Tokens | None, source: Tokens | None, negatives: list[str]
    ) -> _ByTeacher:
        engine, text, caches = self.engines.teacher, self.teacher_text, self.caches
        device = batch.pair_codes.device
        if caches is None:
            extra = text.documents(negatives).to(device) if negatives else None
            parts = (batch.target, document, source, extra)
            asked = [tokens for tokens in parts if tokens is not None]
            encoded = iter(_in_one_forward(engine, asked, text))
            made = [next(encoded) if tokens is not None else None for tokens in parts]
            assert made[0] is not None, "the English sentences are always asked for"
            mask_PL = None if extra is None else extra.scoring_mask
            return _ByTeacher(made[0], made[1], made[2], made[3], mask_PL)
        target_BMD = caches.queries.look_up(batch.target_texts, batch.target)
        document_BLD = source_BND = negative_PLD = mask_PL = None
        if document is not None and caches.documents is not None:
            document_BLD = caches.documents.look_up(batch.target_texts, document)
        if source is not None:
            (source_BND,) = _in_one_forward(engine, [source], text)
        if self.negatives is not None and document is not None and caches.documents is not None:
            # Those of other pairs, which this rank may not have met.
            caches.documents.include(negatives)
        if negatives and caches.documents is not None:
            negative_PLD, mask_PL = (
                on_device(part, device) for part in caches.documents.padded(negatives)
            )
        return _ByTeacher(target_BMD, document_BLD, source_BND, negative_PLD, mask_PL)


@dataclass(frozen=True)
class _ByTeacher:
    """Vectors of the English sentences, of them as documents, of the translations, of negatives."""

    target_BMD: Tensor
    document_BLD: Tensor | None
    source_BND: Tensor | None
    negative_PLD: Tensor | None
    negative_mask_PL: Tensor | None

    def negatives(self, texts: list[list[str]]) -> PassageVectors:
        if self.negative_PLD is None or self.negative_mask_PL is None:
            nothing = self.target_BMD.new_zeros(0, 1, self.target_BMD.shape[-1])
            return by_row(texts, nothing, nothing.new_zeros(0, 1, dtype=torch.bool))
        return by_row(texts, self.negative_PLD, self.negative_mask_PL)


def by_row(texts: list[list[str]], found_PLD: Tensor, mask_PL: Tensor) -> PassageVectors:
    """Documents of all rows, one after another, as (B, K): K is the most that a row has.

    Args:
        texts: the documents of each row.
        found_PLD: their vectors.
        mask_PL: their scoring tokens.
    """
    num_rows, num_columns = len(texts), max(1, *(len(row) for row in texts))
    places = torch.tensor(
        [row * num_columns + column for row, own in enumerate(texts) for column in range(len(own))],
        dtype=torch.int64,
    )
    places = on_device(places, found_PLD.device)
    document = found_PLD.new_zeros(num_rows * num_columns, *found_PLD.shape[1:])
    mask = mask_PL.new_zeros(num_rows * num_columns, mask_PL.shape[1])
    mask = mask.index_copy(0, places, mask_PL)
    document = document.index_copy(0, places, found_PLD)
    shape = (num_rows, num_columns)
    return PassageVectors(document.unflatten(0, shape), mask.unflatten(0, shape))


def _in_one_forward(
    encoder: torch.nn.Module, asked: list[Tokens], text: TextEncoder
) -> list[Tensor]:
    """Token vectors of several batches, each as wide as its tokens. Gradients flow."""
    width = max(tokens.input_ids.shape[1] for tokens in asked)
    padding_id = text.tokenizer.pad_token_id

    def widen(tensor: Tensor, value: int) -> Tensor:
        return functional.pad(tensor, (0, width - tensor.shape[1]), value=value)

    vectors = encoder(
        torch.cat([widen(tokens.input_ids, padding_id) for tokens in asked]),
        torch.cat([widen(tokens.attention_mask, 0) for tokens in asked]),
    )
    parts = vectors.split([len(tokens) for tokens in asked])
    return [part[:, : tokens.input_ids.shape[1]] for part, tokens in zip(parts, asked, strict=True)]
