"""Normalises a sentence pair and says why it is dropped, if it is (`CleaningRules`)."""

from __future__ import annotations

import functools
import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields

from data_shards.identification import in_wrong_language, in_wrong_script
from distill.errors import InputError
from distill.languages import LanguagePair

#: Reasons in the order in which they are tried; a pair is counted under the first that holds.
REASONS = (
    "malformed",
    "empty",
    "pattern",
    "too_long",
    "length_ratio",
    "identical",
    "held_out",
    "script",
    "language",
    "duplicate",
)


@dataclass(frozen=True, kw_only=True)
class CleaningRules:
    """What a sentence pair must satisfy to be kept."""

    max_characters: int = 2000
    """Longest side kept, in characters after normalisation. Default: 2000."""
    max_length_ratio: float = 9.0
    """Largest ratio of the longer side to the shorter, in characters. Default: 9.0, as Moses has
    it."""
    keep_identical: bool = False
    """Whether pairs whose two sides are the same text (names, or lines never translated) are kept.
    Default: false."""
    duplicates: str = "drop"
    """"drop": a pair that occurs again is dropped, its first line kept; "keep": all are kept.
    Default: drop."""
    check_script: bool = False
    """Whether pairs with a side that is mostly not in its language's script are dropped. Default:
    false."""
    language_identifier: str = "none"
    """"none", or "lingua": drop pairs with a side of 20 characters or more that the package
    lingua-language-detector is sure is in another language. Default: none."""
    malformed: str = "error"
    """"error": a line that cannot be read ends the build; "drop": it is dropped and counted.
    Default: error."""
    unescape_entities: bool = False
    """Read ``&amp;`` and other references of HTML in the texts as the characters they mean.
    Default: false."""
    drop_patterns: tuple[str, ...] = ()
    """Regular expressions; a pair is dropped if one of them occurs in a side. Default: none."""

    def __post_init__(self) -> None:
        if self.max_characters < 1:
            raise InputError(
                f"max_characters: {self.max_characters}", "at least 1", "use 2000, the default"
            )
        if not self.max_length_ratio >= 1:
            raise InputError(
                f"max_length_ratio: {self.max_length_ratio}", "at least 1", "use 9, the default"
            )
        choices = {
            "duplicates": ("drop", "keep"),
            "language_identifier": ("none", "lingua"),
            "malformed": ("error", "drop"),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in choices and value not in choices[field.name]:
                expected = " or ".join(choices[field.name])
                raise InputError(f"{field.name}: {value!r}", expected, "choose one of these")
        for pattern in self.drop_patterns:
            try:
                compiled(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                found = f"drop_patterns: {pattern[:80]!r}: {error}"
                raise InputError(found, "a regular expression", "correct it") from error


@functools.lru_cache(maxsize=256)
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of `CleaningRules.drop_patterns`, ready to search."""
    return re.compile(pattern)


_ENTITY = re.compile(r"&(?:#[0-9]{1,8}|#[xX][0-9A-Fa-f]{1,8}|[A-Za-z][A-Za-z0-9]{0,31});")
# How often a text was escaped; in crawled bitext twice is common.
_MOST_ESCAPES = 4


def unescaped(text: str) -> str:
    """A text with the characters that its references of HTML mean, were they escaped twice."""
    for _ in range(_MOST_ESCAPES):
        read = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
        if read == text:
            break
        text = read
    return text


def normalise(text: str) -> str:
    """NFC, no control or zero-width characters, runs of white space as one blank.

    Zero-width joiners stay: Marathi and Persian spelling needs them.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():
        text = "".join(
            " "
            if character.isspace() or unicodedata.category(character) == "Cc"
            else ""
            if character in _INVISIBLE
            else character
            for character in text
        )
    return " ".join(text.split())


# Byte order mark, zero-width space, word joiner, soft hyphen, direction marks.
_INVISIBLE = frozenset("\ufeff\u200b\u2060\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e")


def text_hash(*texts: str) -> int:
    """64-bit hash of the texts, the same on every machine and in every process."""
    joined = "\t".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")


# Apostrophes, primes and rings that count as letters (ng\u02bcombe, o\u02bbzbek), the saltillo, the
# Arabic stretching mark: where people write one of them, others write a sign or nothing.
_APOSTROPHES = dict.fromkeys([*range(0x2B9, 0x2C2), 0x2C8, 0x2CA, 0x2CB, 0xA78B, 0xA78C, 0x640])


def held_out_hash(text: str) -> int:
    """Hash of a text without case, punctuation and spacing, by which leakage is recognised."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES)
    kept = "".join(
        character
        for character in folded
        if character.isalnum() or unicodedata.category(character).startswith("M")
    )
    # A text of signs alone (an emoji) is compared as it stands.
    return text_hash(kept or folded)


def held_out_hashes(texts: Iterable[str]) -> frozenset[int]:
    """Hashes of held-out sentences, for `drop_reason`."""
    return frozenset(held_out_hash(text) for text in texts if text.strip())


def drop_reason(
    source: str, target: str, pair: LanguagePair, rules: CleaningRules, held_out: frozenset[int]
) -> str | None:
    """Why a normalised pair is dropped by what it is alone, or None to keep it.

    Duplicates are found later, where a shard is gathered.
    """
    if not source or not target:
        return "empty"
    if any(
        compiled(each).search(text) for each in rules.drop_patterns for text in (source, target)
    ):
        return "pattern"
    shorter, longer = sorted((len(source), len(target)))
    if longer > rules.max_characters:
        return "too_long"
    if longer > rules.max_length_ratio * shorter:
        return "length_ratio"
    if source == target and not rules.keep_identical:
        return "identical"
    if held_out and (held_out_hash(source) in held_out or held_out_hash(target) in held_out):
        return "held_out"
    sides = ((source, pair.source, pair.target), (target, pair.target, pair.source))
    if rules.check_script and any(in_wrong_script(text, own) for text, own, _ in sides):
        return "script"
    if rules.language_identifier == "lingua" and any(in_wrong_language(*side) for side in sides):
        return "language"
    return None


def in_dev_split(target: str, dev_fraction: float) -> bool:
    """Whether a pair belongs to the dev split, by its target sentence alone.

    All pairs with the same target sentence, in every language, fall on the same side, so that
    nothing of dev is seen in training. Case is ignored.
    """
    if dev_fraction <= 0:
        return False
    return text_hash("split", target.casefold()) < dev_fraction * 2**64
