"""Writes and reads a lexicon: words with the probabilities of their translations.

A folder of lexicons has one file for each direction, ``sw-en.tsv`` from Swahili to English and
``en-sw.tsv`` back: lines of source word, target word and probability, most probable first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distill.disks import replacing
from distill.errors import InputError
from distill.lexicons.words import words


@dataclass(frozen=True)
class Lexicon:
    """Translations of words.

    Attributes:
        translations: source word → (target word, probability), most probable first.
    """

    translations: dict[str, list[tuple[str, float]]]

    def translate(self, text: str) -> str:
        """Word-by-word translation: the most probable target word of each source word.

        A word that the lexicon does not know stays as it is, which names and loans profit from.
        """
        return " ".join(
            self.translations[word][0][0] if word in self.translations else word
            for word in words(text)
        )

    def weighted_query(self, text: str, num_translations: int = 5) -> list[tuple[str, float]]:
        """All likely translations, weighted by probability (Darwish & Oard, SIGIR 2003).

        The `num_translations` most probable ones of each word, renormalised to sum to 1.
        """
        query: list[tuple[str, float]] = []
        for word in words(text):
            options = self.translations.get(word, [(word, 1.0)])[:num_translations]
            total = sum(probability for _, probability in options)
            query.extend((target, probability / total) for target, probability in options)
        return query

    def translate_all(self, queries: Mapping[str, str]) -> dict[str, str]:
        """Query id → translation."""
        return {query: self.translate(text) for query, text in queries.items()}


def lexicon_path(folder: Path, source: str, target: str) -> Path:
    """Where a folder keeps the lexicon from one language to another."""
    return folder / f"{source}-{target}.tsv"


def write_lexicon(lexicon: Lexicon, path: Path) -> None:
    """Write a lexicon's file, complete or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    lines = [
        f"{source}\t{target}\t{probability:.6g}\n"
        for source, options in sorted(lexicon.translations.items())
        for target, probability in options
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "free space, or choose another folder") as partial:
            partial.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}", "a folder that can be written", "choose another"
        ) from error


def read_lexicon(path: Path) -> Lexicon:
    """Read a lexicon's file.

    Raises:
        InputError: no such file, or a line that is no source word, target word and probability.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"lexicon {path}: {error}",
            "lines of source word, target word and probability",
            "learn one with distill learn-lexicon RECIPE --output FOLDER",
        ) from error
    translations: dict[str, list[tuple[str, float]]] = {}
    for number, line in enumerate(lines, 1):
        try:
            source, target, probability = line.split("\t")
            value = float(probability)
        except ValueError:
            value = 0.0
        if not 0 < value <= 1:
            raise InputError(
                f"{path}:{number}: {line!r}",
                "source word, target word and probability, separated by tabs",
                "correct the line",
            )
        translations.setdefault(source, []).append((target, value))
    return Lexicon(translations)
