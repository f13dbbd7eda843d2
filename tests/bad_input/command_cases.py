"""What the other commands refuse: case, arguments, and a part of the message."""

from __future__ import annotations

from collections.abc import Callable

from bad_input.broken_inputs import (
    Arguments,
    finished_run,
    shards_of,
    small_file,
    study_with,
    teacher_with,
)

HALF_A_PAIR = b'{"query": "a"}\n'

TEACHER_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "no data": (lambda w, t: teacher_with(w, t), "set model=DIRECTORY and data=FILE.jsonl"),
    "missing file": (lambda w, t: teacher_with(w, t, f"data={t / 'no.jsonl'}"), "no.jsonl"),
    "line without a passage": (
        lambda w, t: teacher_with(w, t, f"data={small_file(t, HALF_A_PAIR)}"),
        "file:1",
    ),
    "another encoding": (
        lambda w, t: teacher_with(w, t, f"data={small_file(t, 'größe'.encode('latin-1'))}"),
        "expected UTF-8",
    ),
    "empty file": (lambda w, t: teacher_with(w, t, f"data={small_file(t, b'')}"), "no pair"),
}


SHARD_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "missing bitext": (
        lambda w, t: ["build", str(t / "out"), "--pair", f"sw-en={t / 'no.tsv'}"],
        "no.tsv",
    ),
    "line without a tab": (lambda w, t: shards_of(t, b"one\ttwo\nthree\n"), "bitext.tsv:2"),
    "wrong encoding": (
        lambda w, t: shards_of(t, "größe\tsize\n".encode("latin-1")),
        "bitext.tsv",
    ),
    "nothing but empty sides": (lambda w, t: shards_of(t, b"\tone\ntwo\t\n"), "bitext.tsv"),
    "pair that is no pair": (
        lambda w, t: ["build", str(t / "out"), "--pair", f"english={t}"],
        "write it like sw-en",
    ),
    "half of a surrogate pair": (
        lambda w, t: shards_of(t, b'{"sw": "a\\ud83d", "en": "b"}\n', "--format", "jsonl"),
        "bitext.tsv:1: half of a surrogate pair",
    ),
    "line ends of another system": (
        lambda w, t: shards_of(t, b"one\ttwo\rthree\tfour\r"),
        "line ends are CR",
    ),
    "no translation memory": (
        lambda w, t: shards_of(t, b"<html><p>404</p></html>", "--format", "tmx"),
        "nothing matched 'sw'",
    ),
    "no zip": (lambda w, t: shards_of(t, b"PK\x03\x04", "--format", "opus-zip"), "a whole zip"),
    "verify without a manifest": (lambda w, t: ["verify", str(t)], "manifest.json"),
}


STUDY_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "missing study": (lambda w, t: ["run", str(t / "no.yaml")], "check the path"),
    "unknown key": (lambda w, t: study_with(w, t, variant={}), "did you mean variants?"),
    "setting refused in a variant": (
        lambda w, t: study_with(w, t, variants={"transport": {"max_steps": 0}}),
        "variant transport",
    ),
    "chosen and tested on the same": (
        lambda w, t: study_with(w, t, dev_collections=["colours"]),
        "drop it from one of them",
    ),
    "no such cell": (
        lambda w, t: ["run", *study_with(w, t)[1:], "--cell", "5", "baselines=false"],
        "--cell 5",
    ),
}

EXPORT_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "a run that is none": (lambda w, t: [str(t), str(t / "out")], "let the run finish"),
    "a directory in use": (
        lambda w, t: [str(finished_run(w, t)), str(t)],
        "name another, or add --force",
    ),
    "the best of a run that keeps none": (
        lambda w, t: [str(finished_run(w, t)), str(t / "out"), "--which", "best"],
        "add --which student",
    ),
}
