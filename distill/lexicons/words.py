"""Splits a text into words (`words`) for lexicons, and into terms (`terms`) for BM25.

Scripts without spaces have their characters for words, and pairs of them for terms.
"""

from __future__ import annotations

import re
import unicodedata

from distill.lexicons.unspaced import is_unspaced, terms_of_run, units

# Letters, digits and combining marks: \w leaves out the vowel signs and the virama of Indic
# scripts, which would cut Marathi words to pieces.
_JOINING = "".join(
    re.escape(chr(code))
    for code in range(0x300, 0x1100)
    if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
_WORD = re.compile(rf"[\w{_JOINING}]+(?:['’ʼ][\w{_JOINING}]+)*")


def words(text: str) -> list[str]:
    """Lower-case words in NFKC, apostrophes inside words kept as ``'``."""
    return [run[start:end] for run in _runs(text) for start, end in _units(run)]


def terms(text: str) -> list[str]:
    """What BM25 counts: words, and neighbouring pairs of characters where no space parts words."""
    return [term for run in _runs(text) for term in terms_of_run(run)]


def word_spans(text: str) -> list[tuple[int, int, str]]:
    """Where each word begins and ends in the text as it stands, and the word as `words` has it."""
    return [
        (match.start() + start, match.start() + end, _plain(match[0][start:end]))
        for match in _WORD.finditer(text)
        for start, end in _units(match[0])
    ]


def _runs(text: str) -> list[str]:
    return [_one_apostrophe(run) for run in _WORD.findall(_normalised(text))]


def _units(run: str) -> list[tuple[int, int]]:
    """Where the words of a run without space begin and end."""
    return units(run) if is_unspaced(run) else [(0, len(run))]


def _plain(word: str) -> str:
    return _one_apostrophe(_normalised(word))


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _one_apostrophe(word: str) -> str:
    return word.replace("’", "'").replace("ʼ", "'")
