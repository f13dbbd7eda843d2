"""The collections that studies are tested on: copied, converted from published files, cut."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.converters import convert

COLLECTIONS = ("flores_dev", "emoji", "udhr", "xquad_de")
#: Copied where they are there: only the studies of the five questions need them.
FURTHER_COLLECTIONS = ("belebele_de",)
#: Collection → (format, folder of the published files, the format's choices).
PUBLISHED: dict[str, tuple[str, str, dict[str, str]]] = {
    "tatoeba": ("tatoeba", "tatoeba", {}),
    "mtop": ("xsemplr", "xsemplr/mtop", {"relevant": "meaning"}),
    "mtop_dev": ("xsemplr", "xsemplr/mtop", {"relevant": "meaning", "split": "dev"}),
    "mcwq": ("xsemplr", "xsemplr/mcwq", {}),
    "mcwq_dev": ("xsemplr", "xsemplr/mcwq", {"split": "dev"}),
    "qald": ("qald", "qald_9_plus", {}),
}
#: Of collections that separate systems little or cost much, so many queries a language.
MAX_QUERIES = {"flores_dev": 60, "mtop": 300, "mtop_dev": 60, "mcwq_dev": 60}


def write_collections(output: Path, collections: Path, published: Path | None) -> set[str]:
    """Copy and convert the collections.

    Args:
        output: folder of the collections' folders.
        collections: folder of `COLLECTIONS` and `FURTHER_COLLECTIONS`.
        published: folder of the files that `PUBLISHED` names; none for none of these.

    Returns:
        All their texts in lower case, queries of every language among them: not to be trained on.
    """
    tested: set[str] = set()
    names = [*COLLECTIONS, *FURTHER_COLLECTIONS, *(PUBLISHED if published else ())]
    for name in names:
        target = output / name
        shutil.rmtree(target, ignore_errors=True)
        if name in PUBLISHED:
            kind, folder, choices = PUBLISHED[name]
            convert(kind, published / folder, target, (), choices)
        elif (collections / name).is_dir():
            shutil.copytree(collections / name, target)
        elif name in COLLECTIONS:
            raise InputError(
                f"{collections}: no {name}", "the studies' collections", "add its folder"
            )
        if name in MAX_QUERIES:
            cut_queries(target, MAX_QUERIES[name])
        for path in target.glob("*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                tested.add(json.loads(line).get("text", "").casefold())
    return tested - {""}


def cut_queries(directory: Path, count: int) -> None:
    """Keep the first `count` queries of each language, and their judgments."""
    kept: dict[str, set[str]] = {}
    for path in directory.glob("queries-*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()[:count]
        write_lines(path, lines)
        kept[path.name.split("-")[1].split(".")[0]] = {json.loads(line)["id"] for line in lines}
    for path in directory.glob("qrels*.tsv"):
        # Judged queries that are missing would count as failures.
        language = path.stem.partition("-")[2]
        names = kept[language] if language else set().union(*kept.values())
        judged = path.read_text(encoding="utf-8").splitlines()
        write_lines(path, [line for line in judged if line.split()[0] in names])


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a text file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
