"""The split by emoji holds in every string; the Declaration becomes queries and articles."""

from __future__ import annotations

import json
import unicodedata
from itertools import chain
from pathlib import Path

import data
import declaration
import pytest
from annotations import (
    Emoji,
    collect_emoji,
    fold,
    leak_filter,
    read_annotations,
    split_emoji,
)
from training_texts import bitext_rows, drop_leaks, keyword_dictionary, teacher_pairs

from distill.errors import InputError

LANGUAGES = data.LANGUAGES


@pytest.fixture(scope="module")
def written(tarballs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    data.write_demo_data(folder, tarballs, num_test=12, num_dev=6)
    return folder


def read_texts(path: Path) -> dict[str, str]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["text"] for row in rows}


def read_rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def names(folder: Path, language: str) -> list[str]:
    """Names of test and dev emoji, as the queries of the collections have them."""
    found = [
        read_texts(folder / "collections" / collection / f"queries-{language}.jsonl").values()
        for collection in ("emoji", "emoji_dev")
    ]
    return [unicodedata.normalize("NFC", name).casefold() for name in chain(*found)]


def test_no_held_out_name_in_any_training_text(written: Path):
    bitext_files = sorted((written / "bitext").rglob("*.tsv"))
    assert len(bitext_files) == 2 * len(LANGUAGES)
    num_texts = 0
    for path in bitext_files:
        for column, language in enumerate(path.stem.split("-")):
            texts = [row[column].casefold() for row in read_rows(path)]
            num_texts += len(texts)
            for name in names(written, language):
                assert not any(name in text for text in texts), (path, name)
    every_name = {name for language in ("en", *LANGUAGES) for name in names(written, language)}
    teacher = [json.loads(line) for line in (written / "teacher.jsonl").read_text().splitlines()]
    for text in chain.from_iterable(row.values() for row in teacher):
        assert not any(name in text.casefold() for name in names(written, "en"))
        assert text.casefold() not in every_name
    assert num_texts > 1000
    assert len(teacher) > 100


def test_held_out_names_were_there_to_be_dropped(tarballs):
    """Without the filter the invented keywords do leak, so the test above can fail."""
    annotations = {code: read_annotations(tarballs, code) for code in ("en", *LANGUAGES)}
    split = split_emoji(collect_emoji(annotations), 12, 6)
    for language in LANGUAGES:
        words = [word for emoji in split.training for word in emoji.keywords[language]]
        leaks = leak_filter([*split.test, *split.dev], words, language)
        assert any(map(leaks, words))
        rows, _ = bitext_rows(split.training, split.flags, language)
        assert len(drop_leaks(rows, split, (language, "en"))) < len(rows)


def test_collections_share_documents_and_no_queries(written: Path):
    test, dev = (written / "collections" / name for name in ("emoji", "emoji_dev"))
    documents = read_texts(test / "docs.jsonl")
    assert documents == read_texts(dev / "docs.jsonl")
    assert len(documents) == 80  # the toned, the untranslated and the flag are not among them
    assert (len(read_rows(test / "qrels.tsv")), len(read_rows(dev / "qrels.tsv"))) == (12, 6)
    ids = {name: set(read_texts(name / "queries-en.jsonl")) for name in (test, dev)}
    assert not ids[test] & ids[dev]
    for folder in (test, dev):
        assert {row[0] for row in read_rows(folder / "qrels.tsv")} == ids[folder]
        for query, text in read_texts(folder / "queries-en.jsonl").items():
            assert documents[query].startswith(text + "; ")
        for language in LANGUAGES:
            assert set(read_texts(folder / f"queries-{language}.jsonl")) == ids[folder]


def test_held_out_names_are_part_of_no_other_name(tarballs):
    annotations = {code: read_annotations(tarballs, code) for code in ("en", *LANGUAGES)}
    emoji = collect_emoji(annotations)
    split = split_emoji(emoji, 12, 6)
    first_five = {f"{0x1F600 + number:x}" for number in range(5)}
    assert not first_five & {item.identifier for item in [*split.test, *split.dev]}
    for item in [*split.test, *split.dev]:
        for other in emoji:
            if other is not item:
                assert not any(item.names[code] in other.names[code] for code in item.names)
    everyone = [*split.test, *split.dev, *split.training, *split.flags]
    assert sorted(item.identifier for item in everyone) == [item.identifier for item in emoji]
    with pytest.raises(InputError, match="for the test and 40 for dev"):
        split_emoji(emoji, 40, 40)


def test_split_does_not_depend_on_the_order_of_the_file(invented):
    annotations = invented()
    backwards = {
        language: dict(reversed(list(records.items()))) for language, records in annotations.items()
    }
    assert collect_emoji(annotations) == collect_emoji(backwards)


def test_output_is_the_same_bytes_again(written: Path, tarballs, tmp_path: Path):
    data.write_demo_data(tmp_path, tarballs, num_test=12, num_dev=6)
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert len(files) > 40
    for name in files:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def emoji_of(name: str, keywords: list[str], foreign: list[str]) -> Emoji:
    return Emoji(name, {"en": name, "xx": name.upper() + "X"}, {"en": keywords, "xx": foreign})


def test_dictionary_takes_mutual_best_partners_only():
    emoji = [
        emoji_of("one", ["Sun", "sky"], ["jua", "anga"]),
        emoji_of("two", ["sun", "beach"], ["Jua", "pwani"]),
        emoji_of("three", ["sky", "bird"], ["anga", "ndege"]),
        emoji_of("four", ["left", "right"], ["a", "b"]),
        emoji_of("five", ["left", "right"], ["a", "b"]),  # a and b cannot be told apart
    ]
    assert keyword_dictionary(emoji, "xx") == {"anga": "sky", "jua": "sun"}
    rows, loose = bitext_rows(emoji, [], "xx")
    assert ("ONEX; jua, anga", "one; Sun, sky", "cldr-entry") in rows
    assert ("jua", "Sun", "cldr-word") in rows
    assert not any("pwani" in row[0] for row in rows)
    assert ("Jua, pwani", "sun, beach", "cldr-keywords") in loose


def test_teacher_queries_have_one_right_passage():
    emoji = [
        emoji_of("cat", ["animal", "pet"], []),
        emoji_of("dog", ["animal", "pet"], []),
        emoji_of("ant", ["animal", "insect", "six", "small"], []),
    ]
    pairs = teacher_pairs(emoji, [])
    assert ("cat", "cat; animal, pet") in pairs
    assert "animal, pet" not in [query for query, _ in pairs]
    spans = [query for query, passage in pairs if passage.startswith("ant") and "," not in query]
    assert len(spans) == 2
    assert spans[0] == "ant"
    assert len(set(spans[1].split()) & {"animal", "insect", "six", "small"}) == 3


def test_joined_words_may_not_spell_a_held_out_name(invented):
    split = split_emoji(collect_emoji(invented()), 1, 1)
    name = split.test[0].names["en"]
    rows = [("xx", f"big {name.upper()} trap"), ("xx", "harmless"), (split.dev[0].names["fi"], "y")]
    assert drop_leaks(rows, split, ("sw", "en")) == [("xx", "harmless")]


def test_fold_meets_spellings_of_the_same_text():
    assert fold("E\u0301toile") == fold("étoile")
    assert fold("STRASSE") == fold("straße")


def test_declaration_collection(written: Path):
    folder = written / "collections" / "udhr"
    documents = read_texts(folder / "docs.jsonl")
    assert list(documents)[:3] == ["P", "A1", "A2"]
    assert documents["P"] == "en whereas,"
    assert documents["A2"] == "en né 2 a; b. Second sentence 2. en & other 2."
    queries = read_texts(folder / "queries-mr.jsonl")
    assert len(queries) == 61
    assert queries["A7.0"] == "mr né 7 a;"
    assert read_rows(folder / "qrels-mr.tsv")[1] == ["A1.0", "0", "A1", "1"]


def test_declaration_is_refused_when_it_is_not_one(make_declaration):
    html = make_declaration("de")
    with pytest.raises(InputError, match="UTF-8"):
        declaration.read_declaration(html.encode("latin-1"), "deu.html")
    with pytest.raises(InputError, match=r"eng\.html: 30 articles, expected 31"):
        declaration.read_declaration(html.replace("<header>", "<div>").encode(), "eng.html")


@pytest.mark.parametrize(
    ("paragraph", "first"),
    [
        ("One. Two.", "One."),
        ("No end", "No end"),
        ("Yksi; kaksi. Kolme.", "Yksi;"),
        ("पहिले वाक्य। दुसरे वाक्य।", "पहिले वाक्य।"),
        ("Version 1.5 stays. Next.", "Version 1.5 stays."),
    ],
)
def test_first_sentence(paragraph: str, first: str):
    assert declaration.first_sentences({"A1": [paragraph]}) == {"A1.0": first}


def test_english_queries_are_completed_within_the_article():
    english = {"A1.0": "a", "A1.1": "b", "A10.0": "c"}
    completed = declaration.complete_english(english, {"A1.0", "A1.3", "A10.2"})
    assert completed == {**english, "A1.3": "b", "A10.2": "c"}


def test_broken_annotations_are_refused(make_tgz, tmp_path: Path):
    from annotations import member_paths

    tarballs = {
        package: make_tgz(tmp_path / f"{package}.tgz", {member: b'{"annotations": 3}'})
        for package, member in member_paths("sw").items()
    }
    with pytest.raises(InputError, match="CLDR annotations as JSON"):
        read_annotations(tarballs, "sw")
