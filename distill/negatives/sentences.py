"""Lists the English sentences that negatives come from, and which mean the same: `Sentences`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from distill.lexicons.words import words


class Sentences:
    """Distinct English sentences in the order they are met, numbered from 0.

    Two of them are known paraphrases when they have the same words (case, punctuation and
    spacing aside), or when the bitext translates both by the same sentence. Neither is a negative
    of the other.

    Args:
        bitext: (source, English) of every pair; the same on every rank.
    """

    def __init__(self, bitext: Iterable[tuple[str, str]]) -> None:
        self._numbers: dict[str, int] = {}
        # One entry for each source sentence: only a repeated one joins sentences.
        first_of_source: dict[str, int] = {}
        joined: list[tuple[int, int]] = []
        for source, text in bitext:
            number = self._numbers.setdefault(text, len(self._numbers))
            first = first_of_source.setdefault(source, number)
            if first != number:
                joined.append((first, number))
        self.texts: list[str] = list(self._numbers)
        wording: dict[str, int] = {}
        self._wording = np.array(
            [wording.setdefault(" ".join(words(text)), len(wording)) for text in self.texts],
            dtype=np.int64,
        )
        self._joined: dict[int, set[int]] = {}
        for one, other in joined:
            self._joined.setdefault(int(self._wording[one]), set()).add(int(self._wording[other]))
            self._joined.setdefault(int(self._wording[other]), set()).add(int(self._wording[one]))

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        """Identity of the sentences, their numbers and known paraphrases."""
        digest = hashlib.sha256(repr(sorted(self._joined.items())).encode())
        for text in self.texts:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()

    def numbers(self, texts: Sequence[str]) -> list[int]:
        """Numbers of sentences.

        Raises:
            KeyError: a text that is not among them.
        """
        return [self._numbers[text] for text in texts]

    def are_paraphrases(self, number: int, others: np.ndarray) -> np.ndarray:
        """Which of the sentences `others` are the sentence itself or a known paraphrase; bool."""
        own = int(self._wording[number])
        wordings = self._wording[others]
        known = wordings == own
        for other in self._joined.get(own, ()):
            known |= wordings == other
        return known
