"""Splits a text into words (`words`), for all that is lexical: BM25 and lexicons."""

from __future__ import annotations

import re
import unicodedata

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
    return [_one_apostrophe(word) for word in _WORD.findall(_normalised(text))]


def word_spans(text: str) -> list[tuple[int, int, str]]:
    """Where each word begins and ends in the text as it stands, and the word as `words` has it."""
    return [
        (match.start(), match.end(), _one_apostrophe(_normalised(match[0])))
        for match in _WORD.finditer(text)
    ]


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _one_apostrophe(word: str) -> str:
    return word.replace("’", "'").replace("ʼ", "'")
