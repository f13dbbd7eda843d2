"""What search takes for documents: what evaluation finds in the same folder, and nothing else."""

from __future__ import annotations

import gzip
import json
import os
import threading

import pytest

from distill.errors import InputError
from distill.evaluation.__main__ import main as evaluation
from distill.evaluation.runs import read_run
from distill.search.__main__ import build_searcher, main, parse_arguments
from distill.search.documents import read_documents


def rows(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


#: Documents that only their titles tell apart, two of them by nothing.
TITLES = {"d1": "red", "d2": "golden", "d3": "blue", "d4": "golden"}


def plain(root, suffix=""):
    records = [{"id": key, "title": title, "text": "bird"} for key, title in TITLES.items()]
    rows(root / f"docs.jsonl{suffix}", *records)
    rows(root / "queries-sw.jsonl", {"id": "q", "text": "golden bird"})
    (root / "qrels.tsv").write_text("q 0 d2 1\n")
    return root


def beir(root, suffix=""):
    records = [{"_id": key, "title": title, "text": "bird"} for key, title in TITLES.items()]
    rows(root / f"corpus.jsonl{suffix}", *records)
    rows(root / "queries.jsonl", {"_id": "q", "text": "golden bird"})
    (root / "qrels").mkdir()
    (root / "qrels/test.tsv").write_text("q\td2\t1\n")
    return root


def trec(root, suffix=""):
    (root / "documents/deep").mkdir(parents=True)
    text = "".join(
        f"<DOC><DOCNO>{key}</DOCNO><HEADLINE>{title}</HEADLINE><TEXT>bird</TEXT></DOC>\n"
        for key, title in TITLES.items()
    )
    raw = text.encode()
    path = root / f"documents/deep/news.sgml{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix else raw)
    topic = "<top><num>q</num><title>golden bird</title></top>"
    (root / "topics-sw.txt").write_text(topic)
    (root / "qrels.txt").write_text("q 0 d2 1\n")
    return root


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("write", [plain, beir, trec])
def test_search_finds_what_evaluation_finds(tmp_path, tiny_world, write, suffix):
    root = write(tmp_path / "c", suffix)
    teacher = ["--teacher", str(tiny_world.teacher)]
    options = [*teacher, "--precision", "float32", "--output", str(tmp_path / "out")]
    evaluation(["evaluate", str(root), *options])
    (file,) = (tmp_path / "out/c/step-0").glob("teacher_zero_shot.*.run")
    (expected,) = read_run(file).values()
    searcher, _ = build_searcher(parse_arguments([str(root), *teacher]))
    hits = searcher.search("golden bird", searcher.teacher, depth=10)
    assert [hit.name for hit in hits] == expected.documents
    assert [hit.score for hit in hits] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert [hit.name for hit in hits][:2] == ["d4", "d2"]  # Equal scores, as trec_eval has them.
    assert hits[0].text == "golden bird"
    assert hits[0].score > hits[2].score


def test_a_file_of_either_id_with_titles(tmp_path):
    for key in ("id", "_id"):
        rows(tmp_path / f"{key}.jsonl.gz", {key: "a", "title": "red", "text": "bird"})
        (found,) = read_documents(tmp_path / f"{key}.jsonl.gz")
        assert (found.name, found.text) == ("a", "red bird")


def test_queries_beside_loose_files_are_no_documents(tmp_path):
    rows(tmp_path / "queries-de.jsonl", {"id": "q1", "text": "vogel"})
    rows(tmp_path / "deep/queries.jsonl", {"_id": "q1", "text": "vogel"})
    rows(tmp_path / "translations-de.jsonl", {"id": "q1", "text": "bird"})
    (tmp_path / "topics-de.txt").write_text("<top>")
    (tmp_path / "queries about birds.txt").write_text("a bird")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("a tree")
    names = [entry.name for entry in read_documents(tmp_path)]
    assert names == ["b.txt.gz", "queries about birds.txt"]


def test_links_out_of_the_folder_and_pipes_are_left_alone(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a bird")
    (folder / "again.txt").symlink_to(folder / "a.txt")
    (folder / "secret.txt").symlink_to(outside / "secret.txt")
    (folder / "relative.md").symlink_to("../outside/secret.txt")
    (folder / "all").symlink_to(outside)
    (folder / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(folder / "pipe.txt")
    os.mkfifo(folder / "docs.jsonl")
    found = []
    reader = threading.Thread(target=lambda: found.extend(read_documents(folder)), daemon=True)
    reader.start()
    reader.join(timeout=60)
    assert [entry.name for entry in found] == ["a.txt", "again.txt"]
    with pytest.raises(InputError, match="no document"):
        read_documents(folder / "pipe.txt")


def test_names_and_texts_never_command_the_terminal(tmp_path, tiny_world, capsys):
    (tmp_path / "a\x1b]0;owned\x07.txt").write_text("golden \x1b[2Jbird\r\x9b31m\u202e end")
    options = [str(tmp_path), "red\x1b[0m", "--teacher", str(tiny_world.teacher)]
    for extra in ([], ["--json"]):
        main([*options, *extra])
        said = capsys.readouterr().out
        for control in ("\x1b", "\x07", "\r", "\x9b"):
            assert control not in said
    assert json.loads(said)["systems"]["teacher, zero-shot"][0]["name"] == "a\x1b]0;owned\x07.txt"
    (tmp_path / "b\x1b[1m.txt").write_bytes(b"\xff")
    with pytest.raises(SystemExit):
        main(options)
    said = capsys.readouterr().err
    assert "is no UTF-8" in said
    assert "\x1b" not in said
