"""Collections, runs and judgments of other tools: read in full, noted, or refused."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.errors import InputError, printable
from distill.evaluation.__main__ import main
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.maxp import PassageSettings, split_passages
from distill.evaluation.readers import lines as reading
from distill.evaluation.readers import read
from distill.evaluation.readers.jsonl import read_titled
from distill.evaluation.readers.lines import read_lines
from distill.evaluation.readers.qrels import read_qrels
from distill.evaluation.readers.trec import read_documents, read_topics
from distill.evaluation.results import read_per_query, read_results
from distill.evaluation.runs import read_run
from distill.lexicons.unspaced import terms_of_run, units


def jsonl(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_LINE", 1000)
    for name, write in (("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress)):
        (tmp_path / name).write_bytes(write(b"{}\n" + b" " * 5000))
        with pytest.raises(InputError, match=f"{name}:2: a line of more than"):
            list(read_lines(tmp_path / name))


@pytest.mark.parametrize(
    "line", ['{"id": "a", "text": ' + "[" * 5000, '{"id": "a", "text": ' + "9" * 5000 + "}", "{]"]
)
def test_json_that_python_cannot_hold_is_one_line(tmp_path, line):
    (tmp_path / "docs.jsonl").write_text('{"id": "x", "text": "y"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"docs\.jsonl:2"):
        read_titled(tmp_path / "docs.jsonl")


@pytest.mark.parametrize("key", ["id", "text", "title"])
def test_half_a_character_names_its_line(tmp_path, key):
    record = {"id": "a", "text": "b", "title": "c", key: "cut \ud83d"}
    jsonl(tmp_path / "docs.jsonl", {"id": "x", "text": "y"}, record)
    with pytest.raises(InputError, match=rf"docs\.jsonl:2: '{key}' has the lone surrogate"):
        read_titled(tmp_path / "docs.jsonl")


def beir(root, split="test", queries=("q1", "q2"), judged=("q1",)):
    jsonl(
        root / "corpus.jsonl",
        {"_id": "q1", "title": "On rain", "text": "it falls"},
        {"_id": "d2", "title": "", "text": "it falls on rain and snow"},
    )
    jsonl(root / "queries.jsonl", *[{"_id": query, "text": "it falls"} for query in queries])
    (root / "qrels").mkdir()
    judgments = "".join(f"{query}\td2\t1\n" for query in judged)
    (root / f"qrels/{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgments)
    return root


def evaluated(root, *options):
    out = root.parent / "out"
    main(["evaluate", str(root), "--bm25", "--measures", "AP,RR", "--output", str(out), *options])
    (result,) = read_results(out / root.name / "step-0/results.json")
    return result["pairs"]["en-en"]


def test_a_split_is_chosen_by_name(tmp_path):
    root = beir(tmp_path / "b", split="dev")
    with pytest.raises(InputError, match="expected one of dev: evaluate with --split dev"):
        read(root)
    assert read(root, split="dev").qrels["en-en"] == {"q1": {"d2": 1}}
    jsonl(tmp_path / "plain/docs.jsonl", {"id": "a", "text": "b"})
    with pytest.raises(InputError, match="drop --split"):
        read(tmp_path / "plain", split="dev")


def test_queries_that_are_documents_are_said_and_left_out(tmp_path, capsys):
    root = beir(tmp_path / "b")
    assert evaluated(root)["RR"] == 0.5
    assert "1 of 1 queries are documents of the same id (q1)" in capsys.readouterr().out
    # Depth counts what is left: the query's own document takes no place.
    assert evaluated(root, "--ignore-identical-ids", "--depth", "1")["RR"] == 1
    assert "left out of their rankings" in capsys.readouterr().out
    run = read_run(tmp_path / "out/b/step-0/bm25.en-en.run")
    assert run["q1"].documents == ["d2"]


def test_unknown_queries_are_lenients(tmp_path, capsys):
    root = beir(tmp_path / "b", judged=("q1", "q9"))
    with pytest.raises(InputError, match="or evaluate with --lenient"):
        load_collection(root)
    found = evaluated(root, "--lenient")
    assert found["num_queries"] == 2
    assert found["RR"] == 0.25
    assert "judge unknown queries: q9" in capsys.readouterr().out
    other = beir(tmp_path / "c", judged=("q9",))
    with pytest.raises(InputError):
        load_collection(other, strict=False)


@pytest.mark.parametrize(
    "text",
    ["q1\td2\t1\nq1\tq1\t2\n", "q1 d2 1 11.5\nq1 q1 2 10.5\n", "q1 Q0 d2 9 2 t\nq1 Q0 q1 1 1 t\n"],
)
def test_runs_of_other_tools(tmp_path, text):
    (tmp_path / "a.run").write_text(text)
    assert read_run(tmp_path / "a.run")["q1"].documents == ["d2", "q1"]


@pytest.mark.parametrize(
    "text",
    [
        "q1 0 d2 1\n",  # judgments
        "q1 d2 1\nq1 Q0 q1 1 1 t\n",
        "q1 d2 0.5\n",
        "q1 d2\n",
        "q1 Q0 d2 1 1e400 t\n",
        "q1 d2 1 nan\n",
        "q1 d2 " + "9" * 5000 + "\n",
    ],
)
def test_what_is_no_run_is_refused(tmp_path, text):
    (tmp_path / "a.run").write_text(text)
    with pytest.raises(InputError):
        read_run(tmp_path / "a.run")


def test_a_run_of_other_ids_counts_as_nothing_and_is_said(tmp_path, capsys):
    root = beir(tmp_path / "b")
    for name, line in (("queries", "1 Q0 d2 1 1 t"), ("documents", "q1 Q0 other 1 1 t")):
        (tmp_path / f"{name}.run").write_text(line + "\n")
        main(
            [
                *("evaluate", str(root), "--run", f"x={tmp_path / name}.run"),
                *("--measures", "AP", "--output", str(tmp_path / "out")),
            ]
        )
        said = capsys.readouterr().out
        assert "0.0000" in said
        expected = {
            "queries": "1 of 1 judged queries are not in the run: 0 each",
            "documents": "1 of its 1 documents are not in the collection",
        }
        assert expected[name] in said


def test_judgments_with_headers_and_points(tmp_path):
    for header in ("qid docid grade\n", "query_id iteration doc_id rel\n", ""):
        (tmp_path / "qrels").write_text(header + "1 0 d1 1.0\n1 0 d2 -1\n1 0 d3 2.\n")
        assert read_qrels(tmp_path / "qrels") == {"1": {"d1": 1, "d2": -1, "d3": 2}}
    for wrong in ("1 0 d1 high\n", "1 0 d1 0.5\n", "1 0 d1 " + "9" * 5000 + "\n"):
        (tmp_path / "qrels").write_text(wrong)
        with pytest.raises(InputError, match="relevance"):
            read_qrels(tmp_path / "qrels")


def test_lines_of_trec_eval_that_are_no_measures(tmp_path):
    (tmp_path / "a").write_text(
        "map\tq1\t0.5\nrelstring\tq1\t'1 0 1'\nrunid\tall\tmy run of May\nmap\tall\t0.5\n"
    )
    assert read_per_query(tmp_path / "a") == {"q1": {"map": 0.5}}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("我喜欢红苹果", ["我喜欢红", "欢红苹果"]),
        ("日本 の 新聞", ["日本 の 新", "本 の 新聞"]),
        ("สวัสดีชาวโลก", None),
        ("one two 三 four 五", ["one two 三 four", "two 三 four 五"]),
        ("one two three four five", ["one two three four", "two three four five"]),
    ],
)
def test_passages_of_scripts_without_spaces(text, parts):
    found = split_passages(text, PassageSettings(num_words=4, stride=4))
    if parts is None:
        assert len(found) > 1
        assert found[0] == text[: len(found[0])]
        assert text.endswith(found[-1])
        # A vowel sign is not parted from its letter.
        assert all(text[stop : stop + 1] not in "ัิีึืุู็่้" or stop == len(text) for _, stop in units(text))
    else:
        assert found == parts


def test_terms_of_scripts_without_spaces(tmp_path):
    assert terms_of_run("rain") == ["rain"]
    assert terms_of_run("红苹果") == ["红苹", "苹果"]
    assert terms_of_run("果") == ["果"]
    assert terms_of_run("covid病毒") == ["covid", "病毒"]
    assert terms_of_run("한국어") == ["한국어"]
    jsonl(
        tmp_path / "c/docs.jsonl",
        {"id": "d1", "text": "我昨天买了一个红苹果"},
        {"id": "d2", "text": "他今天去了北京大学"},
    )
    (tmp_path / "c/collection.json").write_text('{"document_language": "zh"}')
    jsonl(tmp_path / "c/queries-zh.jsonl", {"id": "q", "text": "北京的大学"})
    (tmp_path / "c/qrels.tsv").write_text("q 0 d2 1\n")
    main(["evaluate", str(tmp_path / "c"), "--bm25", "--output", str(tmp_path / "out")])
    (result,) = read_results(tmp_path / "out/c/step-0/results.json")
    assert result["pairs"]["zh-zh"]["AP"] == 1


def test_what_a_terminal_would_act_on_is_shown(tmp_path, capsys):
    assert printable("a\x1b[31mb\u202ec\x9b\n") == "a\\x1b[31mb\\u202ec\\x9b\\n"
    assert printable("می‌خواهم 日本\n", keep="\n") == "می‌خواهم 日本\n"
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "no\x1b]0;title\x07"), "--bm25"])
    assert "\x1b" not in capsys.readouterr().err


PIECES = st.sampled_from(
    [
        *("<DOC>", "</DOC>", "<DOCNO>", "</DOCNO>", "<TEXT>", "</TEXT>", "<top>", "</top>"),
        *(
            "<num>",
            "<title>",
            "<EN-desc>",
            "</title>",
            '<topic number="1">',
            "</topic>",
            "&#x110000;",
        ),
        *(
            "q1",
            " 0 ",
            "d1",
            "\t",
            "1",
            "\n",
            '{"id": "a", "text": "b"}',
            '"\\ud800"',
            "[",
            "}",
            "nan",
        ),
        *("1e999", "-", "é", "\x00", "\x85", "Q0", "9" * 50),
    ]
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.lists(PIECES, max_size=14).map("".join) | st.binary(max_size=40))
def test_only_input_errors_come_of_any_file(tmp_path, content):
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path = tmp_path / "file"
    path.write_bytes(raw)
    (tmp_path / "file.gz").write_bytes(raw)
    for reader in (
        read_qrels,
        read_run,
        read_titled,
        read_topics,
        read_per_query,
        read_results,
        lambda file: list(read_documents(file, [])),
    ):
        for file in (path, tmp_path / "file.gz"):
            try:
                reader(file)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
