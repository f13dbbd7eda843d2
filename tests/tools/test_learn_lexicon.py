"""Lexicons from transport plans and from Model 1, and a stream that switches words by them."""

from __future__ import annotations

import shutil

import pytest
import torch

from distill.encoders.directory import load_encoder, save_encoder
from distill.errors import EXIT_BAD_INPUT
from distill.lexicons.lexicon import lexicon_path, read_lexicon
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.tools import learn_lexicon
from distill.training.streams import build_stream
from distill.training.student_start import load_texts


@pytest.fixture(scope="module")
def bilingual(tiny_world, tmp_path_factory):
    """A teacher to which each made-up word is its English one, which starts with swa or som."""
    encoder, text = load_encoder(str(tiny_world.teacher))
    vocabulary = text.tokenizer.get_vocab()
    table = encoder.backbone.get_input_embeddings().weight
    with torch.no_grad():
        for word, token in vocabulary.items():
            if word[:3] in ("swa", "som"):
                table[token] = table[vocabulary[word[3:][::-1]]]
    directory = tmp_path_factory.mktemp("bilingual")
    save_encoder(directory, encoder, text)
    return directory


def invented(language: str, word: str) -> str:
    return {"sw": "swa", "so": "som"}[language] + word[::-1]


@pytest.mark.parametrize("method", ["plan", "model1"])
def test_the_invented_lexicon_is_found(tiny_world, bilingual, tmp_path, capsys, method):
    learn_lexicon.main(
        [
            str(tiny_world.recipe),
            f"teacher={bilingual}",
            *("--output", str(tmp_path), "--method", method, "--max-pairs", "200"),
        ]
    )
    assert "words from 200 pairs" in capsys.readouterr().out
    for language in ("sw", "so"):
        there = read_lexicon(lexicon_path(tmp_path, language, "en"))
        back = read_lexicon(lexicon_path(tmp_path, "en", language))
        # Colours and nouns stand in any order with one another; "and" is everywhere.
        assert len(there.translations) >= 16
        right = sum(
            invented(language, options[0][0]) == word
            for word, options in there.translations.items()
        )
        assert right >= len(there.translations) - 1
        right = sum(
            invented(language, word) == options[0][0] for word, options in back.translations.items()
        )
        assert right >= len(back.translations) - 1


def test_a_stream_switches_words_by_what_was_learned(tiny_world, bilingual, tmp_path):
    arguments = [str(tiny_world.recipe), f"teacher={bilingual}", "--output", str(tmp_path)]
    learn_lexicon.main([*arguments, "--max-pairs", "100"])
    recipe = load_settings(
        Recipe,
        tiny_world.recipe,
        [
            f"data.code_switching={{share: 0.5, lexicon: {tmp_path}, side: both}}",
            "data.hybrid.monolingual_share=0.5",
            "data.num_workers=0",
        ],
    )
    student, teacher = load_texts(recipe)
    stream = build_stream(recipe, student.queries, teacher.queries, 0, 1)
    batch = next(iter(stream))
    assert sum(batch.changes.monolingual) == 4
    assert batch.changes.num_switched == pytest.approx(0.5 * batch.changes.num_words, abs=1)
    for text, target, pair in zip(
        batch.source_texts, batch.target_texts, batch.pair_codes.tolist(), strict=True
    ):
        language = stream.pairs[pair].split("-")[0]
        for word, english in zip(text.split(), target.split(), strict=True):
            assert word in (english, invented(language, english))


def test_a_student_that_is_not_trained_is_refused(tiny_world, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        learn_lexicon.main(
            [
                str(tiny_world.recipe),
                f"student.model={tiny_world.backbone}",
                *("--output", str(tmp_path)),
            ]
        )
    assert caught.value.code == EXIT_BAD_INPUT
    assert "--student RUN/student" in capsys.readouterr().err


def test_what_cannot_be_read_is_counted(tiny_world, tmp_path, capsys):
    """A lexicon of what happened to be readable would be another one, without a word."""
    shards = shutil.copytree(tiny_world.shards, tmp_path / "shards")
    for shard in sorted((shards / "sw-en").glob("train-*.tar")):
        shard.write_bytes(shard.read_bytes().replace(b'{"source"', b'#"source"'))
    options = [str(tiny_world.recipe), f"data.shards=[{shards}]", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as caught:
        learn_lexicon.main([*options, "--method", "model1", "--max-pairs", "200"])
    assert caught.value.code == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert "1 unreadable samples" in message
    assert "at most 0 of those read of sw-en" in message
