"""Reads labelled examples (`read_labelled_examples`): a query, passages, scores if it has any."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from distill.errors import InputError
from distill.json_files import json_value
from distill.labelled.lines import LineFile, Texts, UnknownIdError
from distill.labelled.settings import LabelledSettings

#: Examples that a rank reads before the first step; some seconds.
_MOST_CHECKED = 200_000


@dataclass(frozen=True)
class LabelledExample:
    """One query.

    Attributes:
        query: in a source language.
        passages: in English; without scores, the first is relevant and the others are not.
        scores: of the passages by a teacher of any kind, larger is better; None for none.
    """

    query: str
    passages: tuple[str, ...]
    scores: tuple[float, ...] | None = None


class Examples(ABC):
    """Examples by number; reading one may raise `InputError`."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, number: int) -> LabelledExample: ...

    @property
    @abstractmethod
    def identity(self) -> str:
        """Tells sets of examples apart."""

    def check(self, rank: int, world_size: int) -> None:
        """Read this rank's share of the examples; of more than `_MOST_CHECKED`, evenly spread ones.

        Raises:
            InputError: one cannot be used.
        """
        mine = range(rank, len(self), world_size)
        for number in mine[:: -(-len(mine) // _MOST_CHECKED) or 1]:
            self[number]


def read_labelled_examples(settings: LabelledSettings) -> Examples:
    """Open the recipe's files.

    Raises:
        InputError: one cannot be used.
    """
    texts = None
    if settings.queries is not None and settings.passages is not None:
        texts = Texts(settings.queries), Texts(settings.passages)
    if settings.triples is not None:
        return Triples(LineFile(settings.triples), texts, settings.num_passages)
    assert texts is not None, "the settings ask for texts"
    if settings.scores is not None:
        return Scores(LineFile(settings.scores), texts, settings.num_passages)
    assert settings.judgments is not None, "the settings ask for one file"
    return Judgments(LineFile(settings.judgments), texts)


class Triples(Examples):
    """TSV lines of query, relevant passage and others, as MS MARCO's and mMARCO's triples.

    Args:
        lines: the file.
        texts: queries and passages by id; None where the lines hold the texts themselves.
        num_passages: columns of passages that are read.
    """

    def __init__(
        self, lines: LineFile, texts: tuple[Texts, Texts] | None, num_passages: int
    ) -> None:
        self._lines, self._texts, self._num_passages = lines, texts, num_passages

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> LabelledExample:
        columns = self._lines[number].split("\t")
        if len(columns) < 3 or not all(columns):
            raise self._lines.fault(number, f"{len(columns)} columns", "query, passage, others")
        query, passages = columns[0], columns[1 : 1 + self._num_passages]
        if self._texts is not None:
            query = self._texts[0][query]
            passages = [self._texts[1][passage] for passage in passages]
        return LabelledExample(query, tuple(passages))

    @property
    def identity(self) -> str:
        return f"triples {len(self)} {self._lines.size}"


class Scores(Examples):
    """JSON lines of n-way scores, as Stanford's ColBERT and PyLate write them.

    Args:
        lines: the file.
        texts: queries and passages by id.
        num_passages: n; the first ones of a line.
    """

    def __init__(self, lines: LineFile, texts: tuple[Texts, Texts], num_passages: int) -> None:
        self._lines, self._texts, self._num_passages = lines, texts, num_passages

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> LabelledExample:
        query, pairs = self._parsed(number)
        pairs = pairs[: self._num_passages]
        if len(pairs) < 2:
            raise self._lines.fault(number, f"{len(pairs)} passages", "2 or more to compare")
        return LabelledExample(
            self._texts[0][query],
            tuple(self._texts[1][passage] for passage, _ in pairs),
            tuple(score for _, score in pairs),
        )

    def _parsed(self, number: int) -> tuple[str, list[tuple[str, float]]]:
        expected = "[query id, [passage id, score], …]"
        try:
            line = json_value(self._lines[number])
            if isinstance(line, dict):
                pairs = list(zip(line["document_ids"], line["scores"], strict=True))
                query = line["query_id"]
            else:
                query, *pairs = line
            scored = [(str(passage), float(score)) for passage, score in pairs]
            if not all(math.isfinite(score) for _, score in scored):
                raise ValueError("a score that is not finite")
            return str(query), scored
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._lines.fault(number, f"{type(error).__name__}: {error}", expected) from error

    @property
    def identity(self) -> str:
        return f"scores {len(self)} {self._lines.size}"


class Judgments(Examples):
    """Relevant passages of queries, as WikiCLIR and TREC list them.

    Args:
        lines: ``query passage relevance`` or ``query 0 passage relevance``.
        texts: queries and passages by id.

    Raises:
        InputError: a line that is neither, or no relevant passage.
    """

    def __init__(self, lines: LineFile, texts: tuple[Texts, Texts]) -> None:
        self._texts, self._size = texts, lines.size
        self._relevant: list[tuple[str, str]] = []
        for number in range(len(lines)):
            columns = lines[number].split()
            relevance = _integer(columns[-1]) if len(columns) in (3, 4) else None
            if relevance is None:
                if number == 0 and self._is_header(columns):
                    continue
                raise lines.fault(number, repr(lines[number][:60]), "query, passage, relevance")
            if relevance > 0:
                self._relevant.append((columns[0], columns[-2]))
        if not self._relevant:
            raise lines.fault(0, "no relevant passage", "a relevance above 0 somewhere")

    def _is_header(self, columns: list[str]) -> bool:
        """Whether a first line names the columns: no query of it has a text."""
        if len(columns) not in (3, 4) or any(each.isdecimal() for each in columns):
            return False
        try:
            self._texts[0][columns[0]]
        except UnknownIdError:
            return True
        return False

    def __len__(self) -> int:
        return len(self._relevant)

    def __getitem__(self, number: int) -> LabelledExample:
        query, passage = self._relevant[number]
        return LabelledExample(self._texts[0][query], (self._texts[1][passage],))

    @property
    def identity(self) -> str:
        return f"judgments {len(self)} {self._size}"


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
