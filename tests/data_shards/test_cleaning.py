"""Normalisation and the reasons for which a pair is dropped."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards.cleaning import (
    CleaningRules,
    drop_reason,
    held_out_hash,
    held_out_hashes,
    in_dev_split,
    normalise,
)
from data_shards.identification import in_wrong_language, in_wrong_script, script_of
from distill.errors import InputError
from distill.languages import parse_pair


def reason(source: str, target: str, pair: str = "sw-en", held_out=frozenset(), **rules):
    return drop_reason(source, target, parse_pair(pair), CleaningRules(**rules), held_out)


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        ("  two\u00a0 words\t", "two words"),
        ("e\u0301t\u00e9", "été"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("bell\x07 line\u2028break", "bell line break"),
        ("क्\u200dष", "क्\u200dष"),
    ],
)
def test_normalise(raw, normalised):
    assert normalise(raw) == normalised


@given(st.text())
def test_normalise_is_idempotent_and_prints(text):
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(character in "\n\r\t\x00" for character in once)


def test_reasons():
    assert reason("maji", "water") is None
    assert reason("", "water") == "empty"
    assert reason("maji " * 30, "water " * 30, max_characters=100) == "too_long"
    assert reason("m", "w" * 10) == "length_ratio"
    assert reason("m", "w" * 9) is None
    assert reason("Nairobi", "Nairobi") == "identical"
    assert reason("Nairobi", "Nairobi", keep_identical=True) is None
    assert reason("maji!", "Water", held_out=held_out_hashes(["water."])) == "held_out"


def test_held_out_hash_ignores_case_and_punctuation_but_not_signs():
    assert held_out_hash("Cold  water!") == held_out_hash("cold water")
    assert held_out_hash("पाणी") != held_out_hash("पण")
    assert held_out_hash("🐪") != held_out_hash("🐫")


def test_script():
    assert not in_wrong_script("Habari za leo", "sw")
    assert in_wrong_script("Habari za leo", "mr")
    assert not in_wrong_script("मराठी भाषा PDF", "mr")
    assert not in_wrong_script("42 %", "mr")
    assert not in_wrong_script("Добар дан", "sr_Cyrl")
    assert in_wrong_script("Dobar dan", "sr_Cyrl")
    assert reason("Habari", "मराठी", check_script=True) == "script"
    with pytest.raises(InputError, match="tlh_Latn"):
        in_wrong_script("nuqneH", "tlh")


@pytest.mark.parametrize(
    ("language", "script"),
    [
        ("kan_Knda", "Knda"),
        ("kan", "Knda"),
        ("eng_Latn", "Latn"),
        ("swh", "Latn"),
        ("arb", "Arab"),
        ("zh_TW", "Hant"),
        ("yue", "Hant"),
        ("sr_Latn", "Latn"),
        ("tzm_Tfng", "Tfng"),
        ("mni_Beng", "Beng"),
        ("pt_BR", "Latn"),
        ("ja", "Jpan"),
    ],
)
def test_scripts_of_languages(language, script):
    assert script_of(language) == script


@pytest.mark.parametrize("language", ["tlh", "qqq", "sw_Abcd", "xx_ZZ"])
def test_scripts_that_are_not_known(language):
    with pytest.raises(InputError, match=f"the script of '{language}' is not known"):
        script_of(language)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("ಮಳೆ ಬರುತ್ತದೆ", "kan_Knda"),
        ("ಮಳೆ ಬರುತ್ತದೆ", "kn"),
        ("雨が降ります", "ja"),
        ("カタカナ", "ja"),
        ("한국어 漢字", "ko"),
        ("下雨了", "zh_Hant"),
        ("ⵜⴰⵎⴰⵣⵉⵖⵜ", "tzm_Tfng"),
        ("རྒྱལ་པོ", "bod_Tibt"),
    ],
)
def test_texts_in_their_script(text, language):
    assert not in_wrong_script(text, language)
    assert in_wrong_script("never translated", language)
    assert in_wrong_script(text, "eng_Latn")


def test_language():
    pytest.importorskip("lingua")
    english = "This whole sentence was never translated at all."
    assert in_wrong_language(english, "sw", "en")
    assert not in_wrong_language(english, "en", "sw")
    assert not in_wrong_language("Mtoto anacheza mpira uwanjani leo asubuhi.", "sw", "en")
    assert not in_wrong_language("never judged", "sw", "en")
    assert reason(english, "Something else.", language_identifier="lingua") == "language"


def test_dev_split_has_about_its_share_and_ignores_case():
    texts = [f"sentence number {number}" for number in range(4000)]
    share = sum(in_dev_split(text, 0.1) for text in texts) / 4000
    # Five standard deviations of a binomial.
    assert abs(share - 0.1) < 5 * (0.09 / 4000) ** 0.5
    assert all(in_dev_split(text, 0.1) == in_dev_split(text.upper(), 0.1) for text in texts)
    assert not any(in_dev_split(text, 0.0) for text in texts)
    # What is in a small dev split stays in a larger one.
    small = {text for text in texts if in_dev_split(text, 0.05)}
    assert small < {text for text in texts if in_dev_split(text, 0.1)}


@pytest.mark.parametrize(
    "rules",
    [
        {"max_characters": 0},
        {"max_length_ratio": 0.5},
        {"max_length_ratio": float("nan")},
        {"duplicates": "maybe"},
        {"malformed": "ignore"},
        {"language_identifier": "fasttext"},
    ],
)
def test_bad_rules_are_refused(rules):
    with pytest.raises(InputError, match=next(iter(rules))):
        CleaningRules(**rules)
