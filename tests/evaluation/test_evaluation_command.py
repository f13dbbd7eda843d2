"""``distill evaluate`` from the outside: encoders, runs, baselines, reports."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from distill.encoders.directory import save_encoder
from distill.evaluation.__main__ import main
from distill.evaluation.report.drilldown import (
    Alignment,
    Found,
    QueryView,
    choose_queries,
    read_views,
    write_views,
)
from distill.evaluation.report.page import TEMPLATES, load_steps, write_page
from distill.evaluation.report.tables import english_share, latex_table, markdown_table
from distill.evaluation.results import read_per_query, read_results
from distill.evaluation.runs import read_run


@pytest.fixture(scope="module")
def models(tmp_path_factory, encoder, text_encoder):
    root = tmp_path_factory.mktemp("models")
    save_encoder(root / "teacher", encoder, text_encoder)
    changed = type(encoder)(encoder.backbone, torch.nn.Linear(16, 8, bias=False))
    torch.manual_seed(5)
    torch.nn.init.normal_(changed.projection.weight)
    save_encoder(root / "student", changed, text_encoder)
    return root


@pytest.fixture
def bitext(tmp_path):
    pairs = [("cat house", "paka nyumba"), ("dog", "mbwa"), ("river", "mto"), ("cat", "paka"),
             ("bird", "ndege"), ("tree", "mti"), ("and", "na")]  # fmt: skip
    path = tmp_path / "en-sw.tsv"
    path.write_text("".join(f"{english}\t{other}\n" for english, other in pairs))
    return path


def evaluate(*arguments):
    main(["evaluate", *map(str, arguments), "--device", "cpu"])


def test_every_system_in_one_table(collection_directory, models, bitext, tmp_path, capsys):
    output = tmp_path / "out"
    evaluate(
        collection_directory,
        *("--teacher", models / "teacher", "--student", models / "student"),
        *("--bm25", "--bitext", f"sw-en={bitext}", "--bitext", f"de-en={bitext}"),
        *("--output", output, "--cache", tmp_path / "cache", "--step", 3),
    )
    folder = output / "animals" / "step-3"
    results = read_results(folder / "results.json")
    systems = [result["system"] for result in results]
    assert systems == [
        *("teacher_zero_shot", "student", "teacher_english"),
        *("bm25", "bm25_translated", "teacher_translated"),
    ]
    by_system = {result["system"]: result for result in results}
    # Translated word by word, the queries find what they ask for; untranslated, nothing.
    assert by_system["bm25"]["pairs"]["sw-en"]["AP"] == 0
    assert by_system["bm25_translated"]["pairs"]["sw-en"]["AP"] > 0.9
    printed = capsys.readouterr().out
    assert "teacher_translated" in printed
    assert "rank-biased overlap between query languages" in printed
    assert re.search(r"student - teacher_zero_shot, sw-en, AP: [+-]", printed)
    for pair in ("sw-en", "de-en"):
        for system in systems:
            read_run(folder / f"{system}.{pair}.run", may_be_empty=True)
            assert read_per_query(folder / f"{system}.{pair}.per-query.tsv")
    page = (output / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # nothing from outside
    assert "<script" not in page
    assert page.count("<svg") >= 3
    views = read_views(folder / "drilldown.json")
    assert {view.pair for view in views} == {"sw-en", "de-en"}
    view = next(view for view in views if view.query == "q1" and view.pair == "sw-en")
    assert (view.text, view.english) == ("paka nyumba", "cat house")
    assert set(view.found) == {"teacher_zero_shot", "student"}
    assert view.alignment.rows == ["paka", "nyumba"]
    assert view.alignment.columns == ["cat", "house"]
    assert all(-1.001 <= value <= 1.001 for row in view.alignment.values for value in row)


def test_measures_of_the_first_ranked_need_no_average_precision(
    collection_directory, models, tmp_path, capsys
):
    command = (collection_directory, "--teacher", models / "teacher", "--output", tmp_path / "out")
    evaluate(*command, "--step", 1)
    evaluate(*command, "--step", 2, "--measures", "P@1,BitextF1")
    results = read_results(tmp_path / "out/animals/step-2/results.json")
    assert set(results[0]["pairs"]["sw-en"]) == {"P@1", "BitextF1", "num_queries"}
    assert "BitextF1" in capsys.readouterr().out
    # The page draws what the last step has, and no curve where the first has it not.
    page = (tmp_path / "out/report.html").read_text()
    assert "P@1 per language pair" in page
    assert "over training steps" not in page


def test_run_files_alone(collection_directory, tmp_path, capsys):
    (tmp_path / "x.sw-en.run").write_text("q1 Q0 d1 1 2.0 x\nq1 Q0 d3 2 1.0 x\nq2 Q0 d2 1 1 x\n")
    evaluate(
        collection_directory,
        *("--pairs", "sw-en", "--run", f"theirs={tmp_path}/x.{{pair}}.run"),
        *("--output", tmp_path / "out", "--measures", "AP,P@5"),
    )
    (result,) = read_results(tmp_path / "out/animals/step-0/results.json")
    # q1: d1 of {d1, d6} first: 1/2; q2: found; q3: not in the run.
    assert result["pairs"]["sw-en"]["AP"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert result["pairs"]["sw-en"]["P@5"] == pytest.approx((0.2 + 0.2 + 0) / 3)
    assert "theirs" in capsys.readouterr().out


def test_reranking_scores_only_the_first_stage(collection_directory, models, bitext, tmp_path):
    common = [
        *("--teacher", models / "teacher", "--pairs", "sw-en", "--bitext", f"sw-en={bitext}"),
    ]
    evaluate(collection_directory, *common, "--output", tmp_path / "full")
    evaluate(collection_directory, *common, "--output", tmp_path / "two", "--rerank", "bm25:2")
    name = "animals/step-0/teacher_zero_shot.sw-en.run"
    full, reranked = read_run(tmp_path / "full" / name), read_run(tmp_path / "two" / name)
    first = read_run(tmp_path / "two/animals/step-0/bm25_translated.sw-en.run")
    for query, ranking in reranked.items():
        assert set(ranking.documents) == set(first[query].documents[:2])
        scores = dict(zip(full[query].documents, full[query].scores, strict=True))
        for document, score in zip(ranking.documents, ranking.scores, strict=True):
            assert score == pytest.approx(scores[document], abs=1e-5)
        assert ranking.documents == [d for d in full[query].documents if d in ranking.documents]


def test_own_translations_take_precedence(collection_directory, models, bitext, tmp_path):
    lines = {"q1": "river tree", "q2": "dog river", "q3": "bird tree"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/translations-sw.jsonl").write_text(
        "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in lines.items())
    )
    evaluate(
        collection_directory,
        *("--pairs", "sw-en", "--translations", tmp_path / "mine"),
        *("--bitext", f"sw-en={bitext}", "--output", tmp_path / "out"),
    )
    run = read_run(tmp_path / "out/animals/step-0/bm25_translated.sw-en.run")
    assert run["q1"].documents[0] == "d5"


def test_passages_and_page_over_steps(collection_directory, models, tmp_path):
    for step in (0, 10):
        evaluate(
            collection_directory,
            *("--teacher", models / "teacher", "--passages", "2:1", "--step", step),
            *("--output", tmp_path / "out"),
        )
    main(["report", str(tmp_path / "out"), "--output", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "AP over training steps" in page
    assert sorted(load_steps(tmp_path / "out")["animals"]) == [0, 10]


def test_comparing_files(tmp_path, capsys):
    for name, value in (("a", 0.1), ("b", 0.4), ("c", 0.1)):
        (tmp_path / name).write_text(
            "".join(f"AP\tq{i}\t{value + i / 100}\n" for i in range(8)) + "AP\tall\t0.5\n"
        )
    main(["compare", *(str(tmp_path / name) for name in "abc")])
    lines = capsys.readouterr().out.splitlines()
    assert "+0.3000" in lines[0]
    assert f"p {2 / 2**8:.4g} (Holm {2 * 2 / 2**8:.4g}" in lines[0]
    assert "p 1 (Holm 1" in lines[1]
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--samples", "9"])
    assert "--samples: 9, expected 10 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measures", "MAPP", "--bm25"], "measure 'MAPP'"),
        (["--pairs", "yo-en", "--bm25"], "no queries for yo-en"),
        (["--teacher", "/no/such/model"], "is no directory here"),
        (["--student", "a=x", "--student", "a=y"], "--student: a twice"),
        (["--run", "x"], "--run 'x'"),
        (["--run", "x=one.run"], "{pair} in the file name"),
        (["--bm25", "--passages", "long"], "--passages 'long'"),
        (["--bm25", "--passages", "9:3"], "--passages without an encoder"),
        (["--bm25", "--rerank", "bm25:5"], "--rerank without an encoder"),
        (["--bm25", "--baseline", "nobody"], "--baseline nobody"),
        (["--bitext", "sw-en=/no/bitext"], "/no/bitext"),
        ([], "no system"),
    ],
)
def test_bad_options_end_in_one_line(collection_directory, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        evaluate(collection_directory, *arguments, "--output", tmp_path / "out")
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def results_of(scores):
    return [
        {"collection": "c", "step": 0, "system": system,
         "pairs": {"sw-en": {"AP": low, "num_queries": 4}, "de-en": {"AP": high, "num_queries": 4}},
         "means": {"all": {"AP": (low + high) / 2}, "low_resource": {"AP": low},
                   "higher_resource": {"AP": high}}}
        for system, (low, high) in scores.items()
    ]  # fmt: skip


def test_share_of_english_and_paper_tables():
    results = results_of(
        {"teacher_zero_shot": (0.2, 0.6), "student_1": (0.5, 0.6), "teacher_english": (0.8, 0.8)}
    )
    shares = english_share(results, "AP")
    assert shares["student_1"]["sw-en"] == pytest.approx(0.625)
    assert shares["student_1"]["all"] == pytest.approx(0.55 / 0.8)
    assert "teacher_english" not in shares
    assert english_share(results[:2], "AP") == {}
    markdown = markdown_table(results, "AP").splitlines()
    assert markdown[2] == "| sw-en | 0.200 | **0.500** | 0.800 |"
    assert "| share of English kept | 50.0% | 68.8% | — |" in markdown
    latex = latex_table(results, "AP")
    assert r"sw-en & 0.200 & \textbf{0.500} & 0.800 \\" in latex
    assert r"student\_1" in latex


def test_drawings_are_well_formed_and_to_scale():
    charts = TEMPLATES.get_template("charts.html").module
    drawing = charts.bar_chart(
        ["a & b", "c"], {"x": [0.5, 1.0], "<y>": [0.0, 0.25]}, "t", height=200
    )
    svg = ElementTree.fromstring(drawing[: drawing.index("</svg>") + 6])
    bars = svg.findall("{http://www.w3.org/2000/svg}rect")
    assert [float(bar.get("height")) for bar in bars] == [100.0, 200.0, 0.0, 50.0]
    assert [bar[0].text for bar in bars][1:3] == ["c, x: 1.0000", "a & b, <y>: 0.0000"]
    for other in (
        charts.line_chart({"s": [(0, 0.1), (10, 0.9)]}, "t"),
        charts.line_chart({"s": [(0, 0.1)]}, "t"),
        charts.heat_map("ab", "c", [[1], [0]], "t"),
        charts.heat_map("", "", [], "t"),
    ):
        ElementTree.fromstring(other[: other.index("</svg>") + 6])


def test_texts_are_escaped_in_the_page(tmp_path):
    """Markup and template syntax in any text are shown and not obeyed."""
    evil = "<script>'\"&{{ 7 * 7 }}{% if %}"
    results = results_of({evil: (0.1, 0.2)})
    folder = tmp_path / evil / "step-0"
    folder.mkdir(parents=True)
    view = QueryView(
        *(evil, evil, evil, evil),
        values={evil: 0.5},
        found={evil: [Found(evil, 1.5, 1, evil)]},
        alignment=Alignment([evil], [evil], [[0.5]]),
    )
    write_views(folder / "drilldown.json", [view])
    (folder / "overlap.json").write_text(json.dumps({evil: [[evil, "sw-en", 0.25]]}))
    write_page(tmp_path / "p.html", {evil: {0: results}}, tmp_path, notes=[evil])
    page = (tmp_path / "p.html").read_text()
    assert "<script>" not in page
    assert "49" not in re.sub(r'="[^"]*"', "", page)
    shown = html.unescape(re.sub("<[^>]*>", "", page))
    # Note, heading, legend and bars, table, overlaps and their axes, query, ranking, alignment.
    assert shown.count(evil) >= 15


def test_the_page_draws_the_measures_that_there_are(collection_directory, tmp_path, capsys):
    run = tmp_path / "x.sw-en.run"
    run.write_text("q1 Q0 d1 1 2.0 x\nq2 Q0 d2 1 1 x\n")
    for step, measures in ((0, "AP"), (5, "P@5,RR"), (10, "P@5")):
        evaluate(
            collection_directory,
            *("--pairs", "sw-en", "--run", f"theirs={tmp_path}/x.{{pair}}.run"),
            *("--output", tmp_path / "out", "--measures", measures, "--step", step),
        )
    page = (tmp_path / "out/report.html").read_text()
    assert "P@5 per language pair" in page
    assert page.count("<circle") == 2
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "out"), "--measure", "RR"])
    error = capsys.readouterr().err
    assert "no RR in the results of animals, step 10, expected one of P@5" in error


def test_queries_that_changed_most_are_shown():
    before = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.1}
    after = {"a": 0.9, "b": 0.1, "c": 0.6, "d": 0.1}
    assert choose_queries(before, after, 2) == ["a", "b"]
    assert choose_queries(before, before, 2) == ["d", "c"]
