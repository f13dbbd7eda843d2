"""Inputs of the studies: equal bitext per language, short queries cut from it, an English teacher.

    python launch/studies/prepare.py --bitext DIR --collections DIR --backbone DIR
        [--published DIR] [--english-backbone DIR] [--num-pairs 9000] [--output downloads/study]

`--bitext` holds ``en-XX.tsv[.gz]`` files (English, the other language, origin), `--collections`
directories that ``distill evaluate`` reads, `--published` files as their authors publish them:
``tatoeba/``, ``xsemplr/mtop/``, ``xsemplr/mcwq/``, ``qald_9_plus/``, which the studies of the five
questions are tested on. Sentences are held out by a hash of the English side, so that a sentence
tested in one language is trained on in none; nor is one that stands in a test collection. Made from
them:

    OUTPUT/bitext/XX-en.tsv             the same number of training pairs for each language
    OUTPUT/collections/short, short_dev four-word queries cut from held-out sentences
    OUTPUT/collections/<name>           the collections given, and those of the published files
    OUTPUT/teacher.jsonl                English spans and the sentences they were cut from
    OUTPUT/documents/en-en.tsv          sentences of all collections' documents, both sides English
    data_shards/study, data_shards/study-documents, models/study-teacher
    models/study-english-teacher        with --english-backbone, for the study of that name
    runs/studies/english-first          and a student that has read the documents under it
    OUTPUT/lexicon, lexicon-model1         for code-switching: from transport plans, by Model 1
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from study_collections import COLLECTIONS, write_collections, write_lines  # noqa: E402

from distill.errors import InputError, one_line_errors  # noqa: E402
from distill.languages import LOW_RESOURCE, SEVEN_PAIRS  # noqa: E402

#: Sentences in a thousand that are held out, by split.
PER_MILLE = {"short": 65, "short_dev": 15}
#: Queries of each language: more where the claims are made, so that the tests have power.
NUM_QUERIES = {
    name: {pair.split("-")[0]: low if pair in LOW_RESOURCE else higher for pair in SEVEN_PAIRS}
    for name, low, higher in (("short", 600, 200), ("short_dev", 100, 60))
}
#: Words a side: longer sentences cost time, and short queries need none.
MAX_WORDS = {"target": 24, "source": 28}
QUERY_WORDS = 4
NUM_DOCUMENTS = 2400
NUM_TEACHER_EXAMPLES = 12000


@dataclass(frozen=True)
class Sentence:
    """A sentence pair and where it comes from."""

    source: str
    target: str
    origin: str


def fingerprint(*texts: str) -> int:
    """A number that depends on the texts alone: the same choice in every language and run."""
    digest = hashlib.blake2b("\t".join(texts).casefold().encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def split_of(target: str) -> str:
    """``short``, ``short_dev`` or ``train``."""
    place = fingerprint("split", target) % 1000
    for name, width in PER_MILLE.items():
        if place < width:
            return name
        place -= width
    return "train"


def read_bitext(directory: Path, language: str) -> Iterator[Sentence]:
    """Pairs of usable length, each English sentence once."""
    found = [directory / f"en-{language}.tsv{suffix}" for suffix in ("", ".gz")]
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        raise InputError(
            f"{directory}: no en-{language}.tsv or en-{language}.tsv.gz",
            "English, translation and origin, tab-separated",
            "check --bitext",
        )
    opened = gzip.open if path.suffix == ".gz" else open
    seen: set[str] = set()
    with opened(path, "rt", encoding="utf-8") as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            if len(fields) < 2 or fields[0] in seen:
                continue
            seen.add(fields[0])
            words = {"target": len(fields[0].split()), "source": len(fields[1].split())}
            if all(2 <= words[side] <= limit for side, limit in MAX_WORDS.items()):
                yield Sentence(fields[1], fields[0], fields[2] if len(fields) > 2 else "")


def span(text: str, num_words: int, place: float) -> str:
    """`num_words` neighbouring words, `place` in [0, 1) of the way through the text."""
    words = text.split()
    start = int(place * (len(words) - num_words + 1))
    return " ".join(words[start : start + num_words])


def write_short_queries(
    directory: Path, held_out: dict[str, list[Sentence]], counts: dict[str, int]
) -> None:
    """A collection of `QUERY_WORDS`-word queries; its documents are the English sentences."""
    documents: dict[str, str] = {}
    for sentences in held_out.values():
        for sentence in sorted(sentences, key=lambda s: fingerprint("query", s.target)):
            documents.setdefault(sentence.target, f"d{len(documents)}")
    english = []
    needed: set[str] = set()
    for language, sentences in held_out.items():
        long_enough = [
            sentence
            for sentence in sorted(sentences, key=lambda s: fingerprint("query", s.target))
            if min(len(sentence.source.split()), len(sentence.target.split())) > QUERY_WORDS
        ][: counts[language]]
        queries, qrels = [], []
        for number, sentence in enumerate(long_enough):
            name = f"{language}{number}"
            place = fingerprint("place", sentence.target) / 2**64
            text = span(sentence.source, QUERY_WORDS, place)
            queries.append(json.dumps({"id": name, "text": text}, ensure_ascii=False))
            text = span(sentence.target, QUERY_WORDS, place)
            english.append(json.dumps({"id": name, "text": text}, ensure_ascii=False))
            qrels.append(f"{name} 0 {documents[sentence.target]} 1")
            needed.add(sentence.target)
        write_lines(directory / f"queries-{language}.jsonl", queries)
        write_lines(directory / f"qrels-{language}.tsv", qrels)
    write_lines(directory / "queries-en.jsonl", english)
    others = [text for text in documents if text not in needed]
    kept = sorted(needed) + others[: max(0, NUM_DOCUMENTS - len(needed))]
    lines = [json.dumps({"id": documents[t], "text": t}, ensure_ascii=False) for t in kept]
    write_lines(directory / "docs.jsonl", lines)


def write_documents(output: Path) -> None:
    """The English text that whoever has an index has: its documents, in pieces of a sentence or
    `MAX_WORDS`, as pairs of equal sides. No query or judgement is among them."""
    pieces: dict[str, None] = {}
    for name in (*PER_MILLE, *COLLECTIONS):
        path = output / "collections" / name / "docs.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines():
            for sentence in re.split(r"(?<=[.!?])\s+", json.loads(line)["text"]):
                words = sentence.split()
                for start in range(0, len(words), MAX_WORDS["target"]):
                    pieces[" ".join(words[start : start + MAX_WORDS["target"]])] = None
    lines = [f"{piece}\t{piece}\tdocuments" for piece in pieces]
    write_lines(output / "documents" / "en-en.tsv", lines)
    print(f"en-en: {len(lines)} pieces of documents", flush=True)


def write_inputs(arguments: argparse.Namespace) -> None:
    """Everything under `arguments.output`."""
    output = arguments.output
    tested = write_collections(output / "collections", arguments.collections, arguments.published)
    held_out: dict[str, dict[str, list[Sentence]]] = {name: {} for name in PER_MILLE}
    english: dict[str, None] = {}
    for pair in SEVEN_PAIRS:
        language = pair.split("-")[0]
        of_split: dict[str, list[Sentence]] = {name: [] for name in ("train", *PER_MILLE)}
        for sentence in read_bitext(arguments.bitext, language):
            if not {sentence.source.casefold(), sentence.target.casefold()} & tested:
                of_split[split_of(sentence.target)].append(sentence)
        for name, found in held_out.items():
            found[language] = of_split[name]
        training = sorted(of_split["train"], key=lambda s: fingerprint("train", s.target))
        if len(training) < arguments.num_pairs:
            raise InputError(
                f"{language}: {len(training)} training pairs",
                f"--num-pairs {arguments.num_pairs}",
                "lower it: every language gets the same number",
            )
        training = training[: arguments.num_pairs]
        english.update((sentence.target, None) for sentence in training)
        lines = [f"{s.source}\t{s.target}\t{s.origin}" for s in training]
        write_lines(output / "bitext" / f"{pair}.tsv", lines)
        print(f"{pair}: {len(training)} training pairs", flush=True)
    for name, found in held_out.items():
        write_short_queries(output / "collections" / name, found, NUM_QUERIES[name])
    write_documents(output)
    examples = []
    for text in sorted(english, key=lambda text: fingerprint("teacher", text)):
        size = 2 + fingerprint("size", text) % 5
        if len(text.split()) > size:
            query = span(text, size, fingerprint("span", text) / 2**64)
            examples.append(json.dumps({"query": query, "passage": text}, ensure_ascii=False))
    write_lines(output / "teacher.jsonl", examples[:NUM_TEACHER_EXAMPLES])


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bitext", type=Path, required=True)
    parser.add_argument("--collections", type=Path, required=True)
    parser.add_argument("--published", type=Path, help="of Tatoeba, MTOP, MCWQ and QALD-9-plus")
    parser.add_argument("--backbone", type=Path, default=Path("models/multilingual-e5-small"))
    parser.add_argument(
        "--english-backbone", type=Path, help="an English-only encoder, such as all-MiniLM-L6-v2"
    )
    parser.add_argument("--output", type=Path, default=Path("downloads/study"))
    parser.add_argument("--num-pairs", type=int, default=9000, help="of each language")
    arguments = parser.parse_args()
    for name in ("bitext", "collections", "published", "backbone", "english_backbone", "output"):
        if getattr(arguments, name) is not None:
            setattr(arguments, name, getattr(arguments, name).resolve())
    with one_line_errors():
        write_inputs(arguments)
    output = arguments.output
    python = sys.executable
    learn_lexicon = [
        *(python, "-m", "distill.tools.learn_lexicon", "launch/recipes/study.yaml"),
        *("--max-pairs", "2000", "--output"),
    ]
    train_teacher = [python, "distill/train_teacher.py"]
    # In bfloat16, as the studies' own runs.
    train_student = [
        *(python, "-m", "accelerate.commands.launch", "--num_processes", "1"),
        *("--num_machines", "1", "--mixed_precision", "bf16", "--dynamo_backend", "no"),
        "distill/train.py",
    ]
    data = f"data={output / 'teacher.jsonl'}"
    commands = [
        [
            *(python, "-m", "data_shards", "build", "data_shards/study", "--overwrite"),
            *("--dev-fraction", "0.01", "--num-shards", "4"),
            *(p for pair in SEVEN_PAIRS for p in ("--pair", f"{pair}={output}/bitext/{pair}.tsv")),
        ],
        [
            *(python, "-m", "data_shards", "build", "data_shards/study-documents", "--overwrite"),
            *("--keep-identical", "--dev-fraction", "0", "--num-shards", "4", "--pair"),
            f"en-en={output}/documents/en-en.tsv",
        ],
        [*train_teacher, "launch/recipes/study_teacher.yaml", f"model={arguments.backbone}", data],
        [*learn_lexicon, f"{output}/lexicon", "objectives.transport.centre_tokens=true"],
        [*learn_lexicon, f"{output}/lexicon-model1", "--method", "model1"],
    ]
    if arguments.english_backbone is not None:
        model = f"model={arguments.english_backbone}"
        recipe = "launch/recipes/study_english_teacher.yaml"
        commands.append([*train_teacher, recipe, model, data])
        commands.append([*train_student, "launch/recipes/study_english_first.yaml"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in commands:
        print("$", " ".join(command[1:]), flush=True)
        subprocess.run(command, cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    main()
