"""Finds published files (`find`), and knows the many ways in which they name languages."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection, Qrels, Texts, order_pairs
from distill.evaluation.readers.lines import read_lines

#: ISO 639-1 code → ISO 639-3 code and English name of the languages that the collections have.
_LANGUAGES = {
    "ar": ("ara", "arabic"),
    "bg": ("bul", "bulgarian"),
    "bn": ("ben", "bengali"),
    "de": ("deu", "german"),
    "el": ("ell", "greek"),
    "en": ("eng", "english"),
    "es": ("spa", "spanish"),
    "fa": ("fas", "persian"),
    "fi": ("fin", "finnish"),
    "fr": ("fra", "french"),
    "ha": ("hau", "hausa"),
    "hi": ("hin", "hindi"),
    "id": ("ind", "indonesian"),
    "ig": ("ibo", "igbo"),
    "it": ("ita", "italian"),
    "ja": ("jpn", "japanese"),
    "ko": ("kor", "korean"),
    "mr": ("mar", "marathi"),
    "nl": ("nld", "dutch"),
    "pt": ("por", "portuguese"),
    "ru": ("rus", "russian"),
    "rw": ("kin", "kinyarwanda"),
    "so": ("som", "somali"),
    "sw": ("swh", "swahili"),
    "ta": ("tam", "tamil"),
    "te": ("tel", "telugu"),
    "th": ("tha", "thai"),
    "tl": ("tgl", "tagalog"),
    "tr": ("tur", "turkish"),
    "tw": ("twi", "twi"),
    "ur": ("urd", "urdu"),
    "vi": ("vie", "vietnamese"),
    "wo": ("wol", "wolof"),
    "yo": ("yor", "yoruba"),
    "zh": ("zho", "chinese"),
    "zu": ("zul", "zulu"),
}
_SHORT = {name: short for short, names in _LANGUAGES.items() for name in names}
# Macrolanguage and older codes that publishers use for the same languages.
_SHORT.update(swa="sw", cmn="zh", pes="fa", fil="tl", ger="de", fre="fr")


def short_code(name: str) -> str:
    """``swh``, ``swahili``, ``swh_Latn``, ``de_XX`` and ``zh_cn`` as ISO 639-1; else as it is."""
    plain = name.lower()
    if plain in _SHORT:
        return _SHORT[plain]
    first = plain.split("_")[0]
    return _SHORT.get(first, first)


def known_code(name: str) -> str | None:
    """The ISO 639-1 code of a language's code or English name; None for any other word."""
    plain = name.lower()
    return plain if plain in _LANGUAGES else _SHORT.get(plain)


def published_codes(names: Iterable[str], where: Path) -> dict[str, str]:
    """Code that a collection's files get → published name, for the names of languages.

    A language that is there once has its short code; one that is there in several varieties
    (scripts, regions) has each under its own name: ``hin_Deva`` and ``hin_Latn``, ``zh_cn`` and
    ``zh_tw``.

    Raises:
        InputError: two names that are one variety's.
    """
    by_language: dict[str, list[str]] = {}
    for name in names:
        by_language.setdefault(short_code(name), []).append(name)
    codes: dict[str, str] = {}
    for short, alike in by_language.items():
        for name in alike:
            code = short if len(alike) == 1 else name.replace("-", "_")
            if codes.setdefault(code, name) != name or (len(alike) > 1 and "_" not in name):
                raise InputError(
                    f"{where}: {', '.join(sorted(alike))} are all {short}",
                    "one name for each language, or varieties such as hin_Deva and hin_Latn",
                    "leave one of them in the folder",
                )
    return codes


def find(directory: Path, patterns: Sequence[str]) -> list[Path]:
    """Files below `directory` that match the first pattern that any matches, sorted.

    Raises:
        InputError: none does.
    """
    for pattern in patterns:
        found = sorted(path for path in directory.rglob(pattern) if path.is_file())
        if found:
            return found
    raise InputError(
        f"{directory}: no file {' or '.join(patterns)}", "the files as published", "add them"
    )


def read_tsv(path: Path, num_columns: int) -> Iterator[tuple[str, list[str]]]:
    """Yield ("file:line", columns) of a table without quoting; more columns are kept.

    Raises:
        InputError: a line with fewer columns.
    """
    for where, line in read_lines(path):
        columns = line.split("\t")
        if len(columns) < num_columns:
            raise InputError(
                f"{where}: {len(columns)} columns", f"{num_columns}, split by tabs", "repair it"
            )
        yield where, columns


def read_quoted_tsv(path: Path) -> list[dict[str, str]]:
    """Rows of a table with a header line, whose fields may hold quotes as they are."""
    lines = (line for _, line in read_lines(path))
    text = io.StringIO("\n".join(lines))
    return list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))


def wanted(found: Iterable[str], languages: Sequence[str], where: Path) -> list[str]:
    """The languages that are there and wanted, English left out.

    Raises:
        InputError: a wanted one is not there, or none is left.
    """
    available = sorted(set(found) - {"en"})
    for language in languages:
        varieties = [code for code in available if short_code(code) == language != code]
        if varieties and language not in available:
            raise InputError(
                f"{where}: {language} as {' and '.join(varieties)}",
                "the variety that is wanted",
                f"write for example --languages {varieties[0]}",
            )
    missing = [language for language in languages if language not in available]
    if missing or not available:
        raise InputError(
            f"{where}: no {', '.join(missing) or 'language but English'}",
            "one of " + (", ".join(available) or "several languages"),
            "add the files or choose other languages",
        )
    return list(languages) or available


def assemble(
    documents: Texts,
    queries: dict[str, Texts],
    qrels: dict[str, Qrels],
    english: Texts | None = None,
    document_language: str = "en",
) -> Collection:
    """A collection from parts by query language; English originals by query id.

    English is left out for languages of which some query has none.
    """
    collection = Collection("converted", documents, {}, {})
    for pair, language in order_pairs(queries, document_language):
        collection.queries[pair] = queries[language]
        collection.qrels[pair] = qrels[language]
        if english and all(query in english for query in queries[language]):
            collection.english_queries[pair] = {
                query: english[query] for query in queries[language]
            }
    return collection
