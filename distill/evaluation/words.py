"""Words of a text, for the lexical systems: BM25 and the translation lexicon."""

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
    normalised = unicodedata.normalize("NFKC", text).casefold()
    return [word.replace("’", "'").replace("ʼ", "'") for word in _WORD.findall(normalised)]
