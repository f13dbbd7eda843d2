"""Finds what stands for a word in scripts that write no spaces between words: `units`.

Chinese, Japanese, Thai, Lao, Khmer and Burmese texts have words but do not mark them. A character
is the unit that a text is cut at, and a pair of neighbouring characters is a term, as Lucene's
analyzers have it (overlapping bigrams; McNamee & Mayfield 2004).
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

# Kana, bopomofo, Han with its extensions; Thai, Lao, Burmese, Khmer. Korean writes spaces.
_RANGES = (
    *((0x0E01, 0x0E5B), (0x0E81, 0x0EDF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x19E0, 0x19FF)),
    *((0x3005, 0x3007), (0x3041, 0x30FF), (0x3105, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF)),
    *((0xFF66, 0xFF9F), (0x20000, 0x3FFFF)),
)
_CLASS = "".join(f"{chr(first)}-{chr(last)}" for first, last in _RANGES)
# Vowel signs and tones belong to the letter before them.
_MARKS = "".join(
    re.escape(chr(code))
    for first, last in _RANGES
    if last < 0x20000
    for code in range(first, last + 1)
    if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
_UNSPACED = re.compile(f"[{_CLASS}]")
_UNIT = re.compile(f"[{_CLASS}][{_MARKS}]*|[^\\s{_CLASS}]+")
_RUN = re.compile(f"([{_CLASS}]+)")


def is_unspaced(text: str) -> bool:
    """Whether a text has characters of such a script."""
    return _UNSPACED.search(text) is not None


def units(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends: what white space separates, and single characters of
    scripts without it, with their marks."""
    return [match.span() for match in _UNIT.finditer(text)]


def terms_of_run(word: str) -> list[str]:
    """A word itself; of runs in such a script the overlapping pairs of characters."""
    if not is_unspaced(word):
        return [word]
    found = []
    for part in _RUN.split(word):
        if not part:
            continue
        spans = units(part) if is_unspaced(part) else []
        if len(spans) < 2:
            found.append(part)
        found += [part[start:stop] for (start, _), (_, stop) in pairwise(spans)]
    return found
