"""One micro-batch through teacher and student.

Shapes: B pairs, N student tokens, M teacher tokens, L document tokens, D dimension.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distill.encoders.text import TextEncoder
from distill.objectives.encodings import Encodings, Need
from distill.stream.batch import Batch
from distill.teacher_cache import TeacherCache
from distill.tokens import Tokens
from distill.zero import Engines


@dataclass(frozen=True)
class TeacherCaches:
    """The English sentences as the teacher's queries and, where ranked, as its documents."""

    queries: TeacherCache
    documents: TeacherCache | None


@dataclass(frozen=True)
class PairEncoder:
    """Encodes the pairs of a micro-batch: the teacher without gradient, the student with.

    Attributes:
        engines: teacher and student.
        teacher_text: the teacher's tokenisation.
        student_text: the student's.
        same_tokens: whether both make the same tokens of a query.
        caches: looked up instead of running the teacher, where the recipe wants it.
    """

    engines: Engines
    teacher_text: TextEncoder
    student_text: TextEncoder
    same_tokens: bool
    caches: TeacherCaches | None = None

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
        with torch.no_grad():
            teacher_BMD, document_BLD, teacher_source_BND = self._teacher(batch, document, source)
        asked = [batch.source] if english is None else [batch.source, english]
        encoded = _in_one_forward(self.engines.student, asked, self.student_text)
        # A checksum tells equal sentences apart well enough within a batch.
        codes = torch.tensor([zlib.crc32(text.encode()) for text in batch.target_texts])
        return Encodings(
            student_BND=encoded[0],
            student=batch.source,
            teacher_BMD=teacher_BMD,
            teacher=batch.target,
            sentence_codes_B=codes.to(device),
            pair_codes_B=batch.pair_codes,
            document_BLD=document_BLD,
            document=document,
            teacher_source_BND=teacher_source_BND,
            student_english_BMD=None if english is None else encoded[1],
            student_english=english,
        )

    def _teacher(
        self, batch: Batch, document: Tokens | None, source: Tokens | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Vectors of the English sentences, of them as documents, and of the translations."""
        engine, text, caches = self.engines.teacher, self.teacher_text, self.caches
        if caches is None:
            asked = [tokens for tokens in (batch.target, document, source) if tokens is not None]
            encoded = iter(_in_one_forward(engine, asked, text))
            teacher_BMD = next(encoded)
            document_BLD = next(encoded) if document is not None else None
            return teacher_BMD, document_BLD, next(encoded) if source is not None else None
        teacher_BMD = caches.queries.look_up(batch.target_texts, batch.target)
        document_BLD = source_BND = None
        if document is not None and caches.documents is not None:
            document_BLD = caches.documents.look_up(batch.target_texts, document)
        if source is not None:
            (source_BND,) = _in_one_forward(engine, [source], text)
        return teacher_BMD, document_BLD, source_BND


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
