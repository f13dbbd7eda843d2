"""Parses language pairs (`parse_pair`): the seven of the method's evaluation, and any other."""

from __future__ import annotations

import re
from dataclasses import dataclass

from distill.errors import InputError

#: Swahili, Somali, Tagalog, Marathi: the low-resource sources (Huang, Yu, Allan, WSDM 2023).
LOW_RESOURCE = ("sw-en", "so-en", "tl-en", "mr-en")
#: Finnish, German, French.
HIGHER_RESOURCE = ("fi-en", "de-en", "fr-en")
SEVEN_PAIRS = LOW_RESOURCE + HIGHER_RESOURCE

# A language subtag as BCP 47 writes it, with optional script or region: sw, fil, zh-Hant is
# written zh_Hant so that the hyphen stays the separator of the pair.
_PAIR = re.compile(r"([a-z]{2,3}(?:_[A-Za-z0-9]{2,4})?)-([a-z]{2,3}(?:_[A-Za-z0-9]{2,4})?)")


@dataclass(frozen=True, order=True)
class LanguagePair:
    """A direction of retrieval: queries in `source`, documents in `target`."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"

    @property
    def resource(self) -> str:
        """Group of the pair in reported means: low_resource, higher_resource or other."""
        code = str(self)
        if code in LOW_RESOURCE:
            return "low_resource"
        return "higher_resource" if code in HIGHER_RESOURCE else "other"


def parse_pair(code: str, where: str = "language pair") -> LanguagePair:
    """Read a pair's code such as ``sw-en`` or ``yo-en``; ``en-en`` is English with itself.

    Args:
        code: two language codes (ISO 639, optionally ``_Script`` or ``_REGION``) and a hyphen.
        where: the option or key the code came from, for the error message.

    Raises:
        InputError: the code has another form.
    """
    match = _PAIR.fullmatch(code) if isinstance(code, str) else None
    if match is None:
        raise InputError(
            f"{where}: {code!r}", "SOURCE-TARGET language codes", "write it like sw-en or yo-en"
        )
    return LanguagePair(match[1], match[2])
