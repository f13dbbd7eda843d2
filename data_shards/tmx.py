"""Reads translation memories (TMX 1.4b), unit after unit, in flat memory.

Of a segment the text is read, not the native codes of the document it came from: the content of
``bpt``, ``ept``, ``ph``, ``it`` and ``ut`` is left out, that of ``hi`` and of ``sub`` (a text
within a code, such as a footnote) kept. The parser resolves no entities and fetches nothing.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from lxml import etree

from data_shards.foreign import one_line
from data_shards.opening import open_bytes
from data_shards.rows import NO_CHARACTER, BitextInput, Fault, Row, malformed
from distill.errors import InputError

_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_NATIVE_CODES = frozenset({"bpt", "ept", "ph", "it", "ut"})
_ENTITY = "entity"

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"<\x00?\x00": "utf-16-le",
    b"\x00<\x00?": "utf-16-be",
}
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["']""")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_REFERENCE = re.compile(r"&#(?:x([0-9A-Fa-f]{1,40})|([0-9]{1,40}));")
_LONGEST_REFERENCE = 44
_BLOCK = 1 << 16

codecs.register_error(
    "data_shards.no_character",
    lambda error: (NO_CHARACTER, error.end),  # type: ignore[attr-defined]
)

#: Language in lower case with hyphens, text (None where it holds an entity) of one variant.
_Variant = tuple[str, str | None]


def read_tmx(item: BitextInput, policy: str) -> Iterator[Row]:
    """A translation memory; numbers are those of units. A missing language is an empty side.

    ``xml:lang`` matches a code if it is the same or begins with it (``en`` and ``en-US``). Of
    several variants the first that is filled is taken, those with the very code first.

    Raises:
        InputError: no TMX, or no unit with one of the languages.
    """
    (path,) = item.paths
    codes = [code.lower().replace("_", "-") for code in item.codes()]
    seen: Counter[str] = Counter()
    number = 0
    with open_bytes(path) as file, one_line("tmx", path):
        parsed = etree.iterparse(
            _Sanitised(file, path),
            tag="{*}tu",
            encoding="utf-8",
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            collect_ids=False,
        )
        for _, unit in parsed:
            number += 1
            variants = list(_variants(unit))
            seen.update(list(dict.fromkeys(language for language, _ in variants)))
            source = _chosen(variants, codes[0], codes[1])
            target = _chosen(variants, codes[1], codes[0])
            if source is None or target is None:
                fault = Fault("an entity that XML does not define", "text")
                yield malformed(path, fault, policy, number)
            else:
                yield number, source, target, ""
            _forget(unit)
    for code in codes:
        if not any(_matches(language, code) for language in seen):
            has = ", ".join(f"{language} ({count})" for language, count in seen.most_common(8))
            raise InputError(
                f"{path}: nothing matched {code!r} in {number} units; languages: {has or 'none'}",
                "units of a TMX file with both languages",
                "name the codes of the file with --languages SOURCE,TARGET",
            )


def _forget(unit: Any) -> None:
    """Delete a unit that was read, and what came before it."""
    unit.clear()
    parent = unit.getparent()
    while parent is not None and parent[0] is not unit:
        del parent[0]


def _name(element: Any) -> str:
    """Name of an element without its namespace; "entity" and "" for what is none."""
    tag = element.tag
    if isinstance(tag, str):
        return tag.rpartition("}")[2]
    return _ENTITY if tag is etree.Entity else ""


def _variants(unit: Any) -> Iterator[_Variant]:
    for variant in unit:
        if _name(variant) != "tuv":
            continue
        language = variant.get(_LANGUAGE) or variant.get("lang") or ""
        segment = next((child for child in variant if _name(child) == "seg"), None)
        if segment is not None:
            text: str | None = segment.text or ""
            if len(segment):
                pieces = list(_pieces(segment, kept=True))
                text = None if None in pieces else "".join(filter(None, pieces))
            yield language.strip().lower().replace("_", "-"), text


def _pieces(element: Any, kept: bool) -> Iterator[str | None]:
    """The texts of an element in order, None for an entity; `kept` is false in native codes."""
    if kept:
        yield element.text or ""
    for child in element:
        name = _name(child)
        if name == _ENTITY:
            yield None
        elif name == "sub":
            # A text of its own within the sentence: blanks keep its words apart.
            yield " "
            yield from _pieces(child, kept=True)
            yield " "
        elif name:
            yield from _pieces(child, kept and name not in _NATIVE_CODES)
        if kept:
            yield child.tail or ""


def _matches(language: str, code: str) -> bool:
    return language == code or language.startswith(code + "-")


def _chosen(variants: list[_Variant], code: str, other: str) -> str | None:
    """The text of a side: filled before empty, the very code before its regions, then order."""
    taken_by_other = other.startswith(code + "-")
    texts = [
        (text == "" or (text is not None and text.isspace()), language != code, place)
        for place, (language, text) in enumerate(variants)
        if _matches(language, code) and not (taken_by_other and _matches(language, other))
    ]
    return variants[min(texts)[2]][1] if texts else ""


class _Sanitised:
    """The file as UTF-8 in which `NO_CHARACTER` stands for what XML does not allow.

    So one bad character costs its unit, not the file.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._rest = ""
        head = file.read(_BLOCK)
        encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
        if encoding is None:
            declared = _DECLARED.match(head)
            encoding = declared[1].decode("ascii") if declared else "utf-8"
        try:
            "a".encode(encoding)
            self._decoder = codecs.getincrementaldecoder(encoding)("data_shards.no_character")
        except (LookupError, UnicodeError) as error:
            raise InputError(
                f"{path}: encoding {encoding!r}", "one that Python knows", "save it as UTF-8"
            ) from error
        self._head = head

    def read(self, size: int = -1) -> bytes:
        """The next bytes, whatever their number; none at the end."""
        while True:
            block, self._head = self._head or self._file.read(_BLOCK), b""
            text = self._rest + self._decoder.decode(block, not block)
            self._rest = ""
            cut = text.rfind("&", max(len(text) - _LONGEST_REFERENCE, 0))
            if block and cut >= 0 and ";" not in text[cut:]:
                text, self._rest = text[:cut], text[cut:]
            if text or not block:
                text = _NOT_IN_XML.sub(_plain, _REFERENCE.sub(_reference, text))
                return text.encode("utf-8")


def _plain(match: re.Match[str]) -> str:
    # White space in every other format too.
    return " " if match[0] in "\x0b\x0c" else NO_CHARACTER


def _reference(match: re.Match[str]) -> str:
    code = int(match[1], 16) if match[1] else int(match[2])
    if code > 0x10FFFF:
        return NO_CHARACTER
    bad = _NOT_IN_XML.fullmatch(chr(code))
    return _plain(bad) if bad else match[0]
