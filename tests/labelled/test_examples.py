"""Readers of labelled examples, their order, and what they refuse."""

from __future__ import annotations

import json

import pytest

from distill.errors import InputError
from distill.labelled.examples import LabelledExample, read_labelled_examples
from distill.labelled.lines import LineFile, Texts
from distill.labelled.order import LabelledOrder
from distill.labelled.settings import LabelledSettings
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.training.checks import check_inputs

QUERIES = "q1\tmto mwekundu\nq2\tjiwe la kijani\n7\tna tabo\n"
PASSAGES = "p1\ta red river\np2\tgreen stone\n12\tgolden market\nlast\tno end of line"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "queries.tsv").write_text(QUERIES)
    (tmp_path / "passages.tsv").write_text(PASSAGES)

    def settings(kind: str, content: str, **changes) -> LabelledSettings:
        path = tmp_path / f"{kind}.txt"
        path.write_text(content)
        texts = {"queries": tmp_path / "queries.tsv", "passages": tmp_path / "passages.tsv"}
        return LabelledSettings(share=0.5, **{kind: path, **texts, **changes})

    return settings


def test_triples_by_id_and_by_text(files):
    examples = read_labelled_examples(files("triples", "q2\tp2\tp1\r\n7\t12\tp1\tlast\n"))
    assert len(examples) == 2
    assert examples[0] == LabelledExample("jiwe la kijani", ("green stone", "a red river"))
    assert examples[1].passages == ("golden market", "a red river", "no end of line")
    by_text = files("triples", "swali\tjibu zuri\tjibu baya\n", queries=None, passages=None)
    assert read_labelled_examples(by_text)[0] == LabelledExample(
        "swali", ("jibu zuri", "jibu baya")
    )
    two = files("triples", "7\t12\tp1\tlast\n", num_passages=2)
    assert read_labelled_examples(two)[0].passages == ("golden market", "a red river")


def test_scores_in_both_forms(files):
    lines = [
        json.dumps(["q1", ["p1", 3.5], ["p2", -1]]),
        json.dumps({"query_id": 7, "document_ids": [12, "p1"], "scores": [0.25, 0.5]}),
    ]
    examples = read_labelled_examples(files("scores", "\n".join(lines)))
    assert examples[0] == LabelledExample(
        "mto mwekundu", ("a red river", "green stone"), (3.5, -1.0)
    )
    assert examples[1] == LabelledExample("na tabo", ("golden market", "a red river"), (0.25, 0.5))


def test_judgments_keep_what_is_relevant(files):
    examples = read_labelled_examples(files("judgments", "q1\tp1\t2\nq1\tp2\t0\n7 0 12 1\n"))
    assert len(examples) == 2
    assert examples[0] == LabelledExample("mto mwekundu", ("a red river",))
    assert examples[1] == LabelledExample("na tabo", ("golden market",))


def test_lines_are_those_of_the_file_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.labelled.lines._BLOCK_BYTES", 5)
    path = tmp_path / "lines"
    content = ["first", "", "größe", "x" * 23, "last"]
    path.write_text("\n".join(content))
    lines = LineFile(path)
    assert [lines[number] for number in range(len(lines))] == content


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("triples", "q1\tp1\n", r"triples.txt:1: 2 columns"),
        ("triples", "q1\tp1\tp99\n", "no id 'p99'"),
        ("scores", '["q1", ["p1", 1]]\n', "1 passages"),
        ("scores", '["q1", ["p1"]]\n', "ValueError"),
        ("scores", "q1\n", "Expecting value"),
        ("judgments", "q1\tp1\tyes\n", "query, passage, relevance"),
        ("judgments", "q1\tp1\t0\n", "no relevant passage"),
        ("triples", "", "empty"),
    ],
)
def test_what_cannot_be_read_is_named(files, kind, content, message):
    with pytest.raises(InputError, match=message):
        read_labelled_examples(files(kind, content))[0]


def test_files_of_texts_are_checked(tmp_path):
    (tmp_path / "no-tab").write_text("q1 text\n")
    (tmp_path / "twice").write_text("q1\ta\nq1\tb\n")
    (tmp_path / "packed.gz").write_bytes(b"")
    for name, message in (
        ("no-tab", "no tab"),
        ("twice", "each id once"),
        ("packed.gz", "unpack it"),
        ("missing", "check the path"),
    ):
        with pytest.raises(InputError, match=message):
            Texts(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("share: 2, triples: a", "0 to 1"),
        ("triples: a", "set labelled.share"),
        ("share: 0.5", "set labelled.triples"),
        ("share: 0.5, triples: a, scores: b", "one of triples, scores, judgments"),
        ("share: 0.5, scores: a", "files that the ids come from"),
        ("share: 0.5, triples: a, queries: b", "files that the ids come from"),
        ("share: 0.5, triples: a, num_passages: 1", "2 or more to compare"),
        ("share: 0.5, triples: a, temperature: 0", "labelled.temperature"),
    ],
)
def test_contradictions_are_refused(tiny_world, text, message):
    with pytest.raises(InputError, match=message):
        load_settings(Recipe, tiny_world.recipe, [f"labelled={{{text}}}"])


def test_steps_on_labels_are_spread_evenly():
    settings = LabelledSettings(share=0.3, triples="a", num_passages=2)  # type: ignore[arg-type]
    taken = [step for step in range(20) if settings.takes(step)]
    assert taken == [3, 6, 9, 13, 16, 19]
    assert settings.num_steps(3, 10) == 3
    assert all(LabelledSettings(share=1.0, triples="a").takes(s) for s in range(9))  # type: ignore


class Numbers:
    """Examples that are their own numbers."""

    identity = "numbers 7"

    def __len__(self) -> int:
        return 7

    def __getitem__(self, number: int) -> LabelledExample:
        return LabelledExample(str(number), ("p",))


def walk(order: LabelledOrder, num: int) -> list[str]:
    return [example.query for _ in range(num) for example in order.take()[0]]


def test_the_order_is_the_same_in_every_world_and_resumes():
    alone = LabelledOrder(Numbers(), 3, 4, 0, 1)
    seen = walk(alone, 7)
    assert sorted(seen[:7]) == sorted(seen[7:14]) == [str(number) for number in range(7)]
    assert seen[:7] != seen[7:14]
    ranks = [LabelledOrder(Numbers(), 3, 2, rank, 2) for rank in range(2)]
    mixed = [query for _ in range(7) for order in ranks for query in walk(order, 1)]
    assert mixed == seen
    half = LabelledOrder(Numbers(), 3, 4, 0, 1)
    walk(half, 3)
    resumed = LabelledOrder(Numbers(), 3, 2, 0, 2)
    resumed.load_state_dict(half.state_dict())
    assert walk(resumed, 1) == seen[12:14]
    assert half.to_come(1) == sorted({int(query) for query in seen[12:16]})
    with pytest.raises(InputError, match="same files"):
        resumed.load_state_dict({"position": 1, "examples": "others"})


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_editors_leave_is_read(files, tmp_path, end):
    """A byte order mark, empty lines at the end, a header of judgments."""
    for name, text in (("queries.tsv", QUERIES), ("passages.tsv", PASSAGES)):
        (tmp_path / name).write_bytes(f"\ufeff{text}{end}{end}".replace("\n", end).encode())
    judgments = f"query-id\tcorpus-id\tscore{end}q1\tp1\t1{end}7\tp2\t0{end}{end}"
    examples = read_labelled_examples(files("judgments", judgments))
    assert [examples[0]] == [LabelledExample("mto mwekundu", ("a red river",))]
    assert len(examples) == 1
    triples = read_labelled_examples(files("triples", f"\ufeffq1\tp1\tp2{end}{end}"))
    assert len(triples) == 1
    triples.check(0, 1)


FIRST = ["q1 p1 yes", "nobody 1 yes", "a header of five columns", "one", " ", "q1 p1 " + "9" * 5000]


@pytest.mark.parametrize("first", FIRST)
def test_a_broken_first_judgment_is_no_header(files, first):
    with pytest.raises(InputError, match=r"judgments\.txt:1: "):
        read_labelled_examples(files("judgments", f"{first}\nq1 p1 1\n"))


BROKEN = {
    "scores": ('["q1", ["p1", 1], ["p2", 0]]', "["),
    "unknown passages": ('["q1", ["p1", 1], ["p2", 0]]', '["q1", ["p1", 1], ["gone", 0]]'),
    "numbers": ('["q1", ["p1", 1], ["p2", 0]]', '["q1", ["p1", NaN], ["p2", 0]]'),
    "nested": ('["q1", ["p1", 1], ["p2", 0]]', "[" * 100_000),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_broken_line_is_found_by_a_rank_before_the_first_step(files, kind, world_size):
    whole, broken = BROKEN[kind]
    examples = read_labelled_examples(files("scores", f"{whole}\n" * 30 + f"{broken}\n"))
    found = []
    for rank in range(world_size):
        try:
            examples.check(rank, world_size)
        except InputError as error:
            found.append(str(error))
    assert len(found) == 1


def test_a_recipe_with_a_broken_line_of_labels_is_refused_at_its_checks(tiny_world, tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\tc\n" * 30 + "a\tb\n")
    labelled = [f"labelled.triples={tmp_path / 't.tsv'}", "labelled.share=0.5"]
    recipe = load_settings(Recipe, tiny_world.recipe, [*labelled, f"runs={tmp_path}"])
    with pytest.raises(InputError, match=r"t\.tsv:31: 2 columns"):
        check_inputs(recipe)
