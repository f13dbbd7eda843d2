"""Emoji names and keywords from CLDR, and the split of the emoji into training, dev and test.

CLDR gives each emoji a name for text to speech (``tts``) and search keywords (``default``) in
many languages. The split is by emoji, so that a test query is unseen in every language at once.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fetch import read_members

from distill.errors import InputError

ENGLISH = "en"
#: Language of the product → folder in CLDR, where they differ: CLDR has Filipino for Tagalog.
CLDR_FOLDER = {"tl": "fil"}
SPLIT_SALT = "emoji-split-1:"


@dataclass(frozen=True)
class Emoji:
    """One emoji with its texts.

    Attributes:
        identifier: its code points in hexadecimal, joined by hyphens.
        names: language → name.
        keywords: language → keywords in CLDR's (alphabetical) order.
    """

    identifier: str
    names: Mapping[str, str]
    keywords: Mapping[str, Sequence[str]]

    def entry(self, language: str) -> str:
        """The emoji as a document: "name; keyword, keyword"."""
        return "; ".join(filter(None, [self.names[language], ", ".join(self.keywords[language])]))


@dataclass(frozen=True)
class Split:
    """Emoji by use. `flags` are countries' flags: training only, since a name such as
    "flag: Peru" is a country's name and asks little of a query encoder."""

    test: list[Emoji]
    dev: list[Emoji]
    training: list[Emoji]
    flags: list[Emoji]


def fold(text: str) -> str:
    """The form in which strings are compared for leaks: NFC, case folded, NFC again."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _clean(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _is_skin_tone(character: str) -> bool:
    return "\U0001f3fb" <= character <= "\U0001f3ff"


def _is_flag(characters: str) -> bool:
    return all("\U0001f1e6" <= character <= "\U0001f1ff" for character in characters)


def member_paths(language: str) -> dict[str, str]:
    """The two annotation files of a language: package → path inside its tarball."""
    folder = CLDR_FOLDER.get(language, language)
    return {
        "cldr-annotations-full": f"package/annotations/{folder}/annotations.json",
        "cldr-annotations-derived-full": f"package/annotationsDerived/{folder}/annotations.json",
    }


def read_annotations(tarballs: Mapping[str, Path], language: str) -> dict[str, dict]:
    """Emoji → {"tts": [name], "default": [keywords]} of one language, both packages together.

    Raises:
        InputError: a tarball is broken or is not what its name says.
    """
    annotations: dict[str, dict] = {}
    for package, member in member_paths(language).items():
        text = read_members(tarballs[package], [member])[member]
        try:
            (body,) = json.loads(text).values()
            annotations |= body["annotations"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{tarballs[package]}, {member}: {error!r}",
                "CLDR annotations as JSON",
                "delete the archive and fetch it again",
            ) from None
    return annotations


def collect_emoji(annotations: Mapping[str, Mapping[str, dict]]) -> list[Emoji]:
    """The emoji that have a name in all languages, skin-tone variants left out, by identifier.

    Args:
        annotations: language → what `read_annotations` returns.
    """
    collected = []
    for characters in annotations[ENGLISH]:
        records = {language: found.get(characters, {}) for language, found in annotations.items()}
        if any(map(_is_skin_tone, characters)) or not all(
            record.get("tts") for record in records.values()
        ):
            continue
        names = {language: _clean(record["tts"][0]) for language, record in records.items()}
        keywords = {
            language: [_clean(keyword) for keyword in record.get("default", ())]
            for language, record in records.items()
        }
        identifier = "-".join(f"{ord(character):x}" for character in characters)
        collected.append(Emoji(identifier, names, keywords))
    return sorted(collected, key=lambda emoji: emoji.identifier)


def is_country_flag(emoji: Emoji) -> bool:
    """Whether the emoji is a pair of regional indicators."""
    return _is_flag("".join(chr(int(code, 16)) for code in emoji.identifier.split("-")))


def split_emoji(emoji: Iterable[Emoji], num_test: int, num_dev: int) -> Split:
    """Choose test and dev emoji by a hash of their identifiers.

    A candidate's name occurs inside no other emoji's name, in any of the languages: so holding
    it out takes away one name per language and needs no further pruning ("cat" would take all
    cats with it).

    Raises:
        InputError: fewer candidates than `num_test + num_dev`.
    """
    everything = list(emoji)
    flags = [item for item in everything if is_country_flag(item)]
    candidates = {item.identifier: item for item in everything if not is_country_flag(item)}
    for language in everything[0].names if everything else ():
        names = "\n".join(fold(item.names[language]) for item in everything)
        for identifier, item in list(candidates.items()):
            if names.count(fold(item.names[language])) > 1:
                del candidates[identifier]
    if len(candidates) < num_test + num_dev:
        raise InputError(
            f"{len(candidates)} emoji whose names occur in no other name",
            f"{num_test} for the test and {num_dev} for dev",
            "use the pinned packages",
        )
    order = sorted(
        candidates.values(),
        key=lambda item: hashlib.sha256((SPLIT_SALT + item.identifier).encode()).digest(),
    )
    held_out = {item.identifier for item in order[: num_test + num_dev]}
    flag_ids = {item.identifier for item in flags}
    return Split(
        test=_by_identifier(order[:num_test]),
        dev=_by_identifier(order[num_test : num_test + num_dev]),
        training=[i for i in everything if i.identifier not in held_out | flag_ids],
        flags=flags,
    )


def _by_identifier(emoji: Iterable[Emoji]) -> list[Emoji]:
    return sorted(emoji, key=lambda item: item.identifier)


def leak_filter(
    held_out: Iterable[Emoji], texts: Iterable[str], language: str
) -> Callable[[str], bool]:
    """A function that says whether a training text contains a held-out name of its language.

    Args:
        held_out: test and dev emoji.
        texts: all texts that the function will be asked about, or the longer texts they are
            part of; names that occur in none of them need not be looked for one by one.
        language: of the texts.

    Returns:
        text → bool, compared as `fold` has it, anywhere inside the text.
    """
    everything = "\n".join(map(fold, texts))
    names = [fold(emoji.names[language]) for emoji in held_out]
    occurring = [name for name in names if name in everything]

    def leaks(text: str) -> bool:
        folded = fold(text)
        return any(name in folded for name in occurring)

    return leaks
