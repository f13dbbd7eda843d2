"""``distill search``: documents, exact scores, matches, terminal, JSON, page."""

from __future__ import annotations

import io
import json
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest
import torch

from distill.encoders.directory import load_encoder
from distill.encoders.maxsim import maxsim_scores
from distill.errors import EXIT_BAD_INPUT, InputError
from distill.evaluation.maxp import PassageSettings
from distill.search.__main__ import main
from distill.search.documents import read_documents
from distill.search.matching import Match, marked_parts
from distill.search.page import make_server

#: "green bird" in made-up Swahili.
SWAHILI = "swaneerg swadrib"


def test_a_folder_of_files_and_passages(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("one two three four five six")
    (tmp_path / "deep/b.md").write_text("größe")
    (tmp_path / "c.jsonl").write_text('{"id": "x", "text": "seven"}\n')
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = read_documents(tmp_path, PassageSettings(num_words=4, stride=2))
    assert [(entry.name, entry.text) for entry in found] == [
        ("a.txt", "one two three four"),
        ("a.txt#2", "three four five six"),
        ("x", "seven"),
        ("deep/b.md", "größe"),
    ]
    with pytest.raises(InputError, match="no document"):
        read_documents(tmp_path / "deep" / "none")


def test_scores_are_exact_maxsim(searcher, tiny_world, student):
    encoder, text = load_encoder(str(student))
    teacher, teacher_text = load_encoder(str(tiny_world.teacher))
    asked = text.queries([SWAHILI])
    stored = teacher_text.documents([entry.text for entry in searcher.documents])
    with torch.no_grad():
        scores = maxsim_scores(
            encoder.eval()(asked.input_ids, asked.attention_mask),
            asked.scoring_mask,
            teacher.eval()(stored.input_ids, stored.attention_mask),
            stored.scoring_mask,
        )[0]
    hits = searcher.search(SWAHILI, searcher.students["sw"], depth=60)
    found = {hit.name: hit.score for hit in hits}
    expected = {entry.name: score.item() for entry, score in zip(searcher.documents, scores)}  # noqa: B905
    assert found == pytest.approx(expected, abs=1e-5)
    assert [hit.score for hit in hits] == sorted(found.values(), reverse=True)


def test_the_student_finds_what_the_teacher_cannot_read(searcher):
    hits = searcher.search(SWAHILI, searcher.students["sw"], depth=1)
    assert hits[0].text == "green bird and fire"
    matches = {match.query: match.document for match in hits[0].matches}
    assert matches == {"swaneerg": "green", "swadrib": "bird"}
    for match in hits[0].matches:
        assert hits[0].text[match.start : match.stop] == match.document


def test_marked_parts_put_together_are_the_text():
    matches = [Match("a", "red", 0.5, 0, 3), Match("b", "ed r", 0.8, 1, 5)]
    parts = marked_parts("red river", matches)
    assert parts == [("r", 0.5), ("ed r", 0.8), ("iver", 0.0)]


def test_terminal_and_json(tiny_world, student, documents, capsys, monkeypatch, tmp_path):
    common = [str(documents), "--teacher", str(tiny_world.teacher), "--student", str(student)]
    main([*common, SWAHILI, "--depth", "2", "--cache", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:1] == ["1"]
    assert lines[1].endswith("d12  [green] [bird] and fire")
    # Without a query, lines of standard input; this time nothing needs to be encoded anew.
    monkeypatch.setattr("sys.stdin", io.StringIO("red moon\n\n"))
    main([*common, "--json", "--cache", str(tmp_path)])
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["systems"]) == ["student", "teacher, zero-shot"]
    assert answer["systems"]["teacher, zero-shot"][0]["text"] == "red moon and fire"


@pytest.fixture
def address(searcher):
    server = make_server(searcher, ["sw", "so"], "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def get(address):
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_the_server_answers(address):
    kind, page = get(address + "/")
    assert kind.startswith("text/html")
    assert "<select" in page
    assert json.loads(get(address + "/languages")[1]) == {
        "languages": ["sw", "so"],
        "documents": 60,
    }
    fields = urllib.parse.urlencode({"q": SWAHILI, "language": "sw", "depth": 2})
    answer = json.loads(get(f"{address}/search?{fields}")[1])
    assert [len(hits) for hits in answer["systems"].values()] == [2, 2]
    assert answer["systems"]["student sw"][0]["name"] == "d12"
    # Somali has no student here: the teacher answers alone.
    other = json.loads(get(f"{address}/search?{fields.replace('=sw', '=so')}")[1])
    assert list(other["systems"]) == ["teacher, zero-shot"]


@pytest.mark.parametrize(
    ("path", "status"), [("/search?q=", 400), ("/search?q=a&depth=x", 400), ("/etc/passwd", 404)]
)
def test_the_server_refuses(address, path, status):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(address + path)
    assert caught.value.code == status


REFUSED = {
    "no encoder": (["{docs}", "a"], "neither --run nor --teacher"),
    "no documents": (["{docs}.none", "--teacher", "{teacher}"], "no document"),
    "no such student": (
        ["{docs}", "--teacher", "{teacher}", "--student", "sw={student}", "--language", "fi"],
        "add --student LANGUAGE=DIRECTORY",
    ),
    "depth of nothing": (["{docs}", "--teacher", "{teacher}", "--depth", "0"], "--depth 0"),
    "passages in words": (
        ["{docs}", "--teacher", "{teacher}", "--passages", "long"],
        "write 150:75",
    ),
    "a run that is none": (["{docs}", "--run", "{docs}.none"], "check the path"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line(name, tiny_world, student, documents, capsys):
    arguments, message = REFUSED[name]
    places = {"docs": documents, "teacher": tiny_world.teacher, "student": student}
    with pytest.raises(SystemExit) as caught:
        main([text.format(**places) for text in arguments])
    assert caught.value.code == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
