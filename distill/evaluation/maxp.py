"""Cuts long documents into overlapping passages (`split_passages`), scored by their best one.

MaxP: a document's score is the greatest of its passages' (Dai & Callan, SIGIR 2019, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

from distill.errors import InputError
from distill.lexicons.unspaced import units


@dataclass(frozen=True)
class PassageSettings:
    """How documents are cut.

    Words are what white space separates, and characters of scripts that write none (Chinese,
    Japanese, Thai …), so the cut is the same for every encoder.
    """

    num_words: int = 150
    """Words of a passage, each about 1.3 subword tokens in English. Default: 150."""
    stride: int = 75
    """Words from one passage's start to the next; fewer than `num_words` overlap. Default: 75."""

    def __post_init__(self) -> None:
        if self.num_words < 1 or not 1 <= self.stride <= self.num_words:
            raise InputError(
                f"passages of {self.num_words} words every {self.stride}",
                "1 <= stride <= num_words",
                "write for example 150:75",
            )


def split_passages(text: str, settings: PassageSettings | None) -> list[str]:
    """The passages of a text, at least one; they cover every word.

    The last passage ends with the text and is as long as the others, so that no passage is a
    short rest. Without settings the text itself is the only passage.
    """
    if settings is None:
        return [text]
    words = units(text)
    if len(words) <= settings.num_words:
        return [text]
    last = len(words) - settings.num_words
    starts = [*range(0, last, settings.stride), last]
    return [
        " ".join(text[words[start][0] : words[start + settings.num_words - 1][1]].split())
        for start in starts
    ]
