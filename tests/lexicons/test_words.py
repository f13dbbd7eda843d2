"""Words and terms of scripts with and without spaces."""

from __future__ import annotations

import pytest

from distill.evaluation.first_stage import BM25Index, plain_query
from distill.lexicons.words import terms, word_spans, words
from distill.negatives.lexical import LexicalMiner
from distill.negatives.sentences import Sentences
from distill.negatives.settings import NegativeSettings


@pytest.mark.parametrize(
    ("text", "found", "counted"),
    [
        ("Red boats, l’eau", ["red", "boats", "l'eau"], ["red", "boats", "l'eau"]),
        ("红苹果 pie", ["红", "苹", "果", "pie"], ["红苹", "苹果", "pie"]),
        ("ＣＯＶＩＤ病毒", ["covid", "病", "毒"], ["covid", "病毒"]),
        ("ที่นี่", ["ที่", "นี่"], ["ที่นี่"]),
        ("हिन्दी शब्द", ["हिन्दी", "शब्द"], ["हिन्दी", "शब्द"]),
        ("한국어 문장", ["한국어", "문장"], ["한국어", "문장"]),
    ],
)
def test_words_and_terms(text, found, counted):
    assert words(text) == [word for _, _, word in word_spans(text)] == found
    assert terms(text) == counted


def test_sentences_without_spaces_share_terms_when_negatives_are_mined():
    texts = ["红色的船在河上", "蓝色的船在河上", "今天下雨", "山很高", "他喜欢音乐", "书在桌上"]
    sentences = Sentences([(f"s{number}", text) for number, text in enumerate(texts)])
    settings = NegativeSettings(
        kind="static", source="bm25", num_per_pair=1, depth=3, max_score_ratio=1.0
    )
    mined = LexicalMiner(sentences, settings).mine([0])
    assert mined.numbers_RK[0].tolist() == [1]


def test_a_first_stage_finds_by_pairs_of_characters():
    index = BM25Index({"d1": "红色的船在河上", "d2": "今天下雨", "d3": "山很高"})
    assert index.rank(plain_query("船在河")).documents == ["d1"]
