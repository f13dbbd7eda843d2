"""Every kind of backbone goes from training to search, or is refused by its name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from encoders.tiny_backbones import DECODERS, KINDS, write_tiny_backbone

from distill.encoders.directory import load_encoder, save_encoder
from distill.encoders.settings import TextSettings
from distill.errors import InputError
from distill.evaluation.__main__ import main as evaluate
from distill.export.__main__ import main as export
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.search.documents import read_documents
from distill.search.index import maxsim
from distill.search.searcher import Searcher, load_query_encoders
from distill.train import run

TEXT = TextSettings(query_length=16, document_length=24, do_query_expansion=True)
#: One encoder and one decoder at every change; the rest takes its time.
QUICK = {"modernbert", "qwen3"}


def write_teacher(kind, folder, world):
    write_tiny_backbone(kind, folder / "bare", world)
    encoder, text = load_encoder(str(folder / "bare"), settings=TEXT, embedding_dimension=16)
    save_encoder(folder / "teacher", encoder, text)
    return folder / "teacher"


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_as_teacher_and_student_from_training_to_search(kind, tiny_world, tmp_path):
    teacher = write_teacher(kind, tmp_path, tiny_world)
    overrides = [
        *(f"runs={tmp_path}", f"teacher={teacher}", "name=run", "max_steps=3"),
        *("data.num_workers=0", "evaluation.every_steps=0", "checkpoint.every_steps=0"),
        "optimizer.warmup_steps=0",
    ]
    assert run(load_settings(Recipe, tiny_world.recipe, overrides))
    out = tmp_path / "out"
    export([str(tmp_path / "run"), str(out)])
    first, last = load_encoder(str(teacher))[0], load_encoder(str(out))[0]
    # Every layer learns: nothing was left out of the forward or of the optimizer.
    before = dict(first.named_parameters())
    moved = {name for name, weight in last.named_parameters() if not weight.equal(before[name])}
    for layer in ("0", "1"):
        assert any(f".{layer}." in name for name in moved), (layer, moved)

    command = ["evaluate", str(tiny_world.collection), "--teacher", str(teacher)]
    evaluate([*command, "--student", str(out), "--output", str(tmp_path / "evaluation")])
    files = (tmp_path / "run/evaluation/colours/step-3", tmp_path / "evaluation/colours")
    in_training, after = (
        {
            result["system"]: result["pairs"]["sw-en"]["AP"]
            for path in sorted(folder.rglob("results.json"))[-1:]
            for result in json.loads(path.read_text())
        }
        for folder in files
    )
    assert after["student"] == pytest.approx(in_training["student"], abs=1e-6)
    assert in_training["student"] != in_training["teacher_zero_shot"]

    documents = read_documents(tiny_world.collection)
    encoder, students, _ = load_query_encoders(str(teacher), {"sw": str(out)})
    searcher = Searcher(documents, encoder, students)
    vectors = encoder.encode(documents[3].text)
    expected = max(maxsim(vectors, searcher.index.vectors(n)) for n in range(len(documents)))
    hits = searcher.search(documents[3].text, encoder, 3)
    assert hits[0].score == pytest.approx(expected, abs=1e-3)
    assert len(searcher.search("swader somrevir", students["sw"], 3)) == 3


@pytest.mark.parametrize("kind", sorted(DECODERS))
def test_a_decoders_attention_is_its_configs(kind, tiny_world, tmp_path):
    """Whether a later word changes an earlier vector; padding never does."""
    encoder, text = load_encoder(str(write_teacher(kind, tmp_path, tiny_world)))
    encoder.eval()
    short, long = text.documents(["red river"]), text.documents(["red river and the boat"])
    batch = text.documents(["red river", "red river and the boat"])
    with torch.no_grad():
        alone, together, longer = (
            encoder(tokens.input_ids, tokens.attention_mask) for tokens in (short, batch, long)
        )
    count = 3  # First tokens, which both texts have.
    torch.testing.assert_close(together[0, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)
    same = torch.allclose(longer[0, :count], alone[0, :count], atol=1e-5)
    assert same == (kind != "embedding_gemma")


def test_a_decoders_queries_are_expanded_with_its_end_of_text(tiny_world, tmp_path):
    _, text = load_encoder(str(write_teacher("qwen3", tmp_path, tiny_world)))
    tokens = text.queries(["red river"])
    assert tokens.input_ids.shape == (1, TEXT.query_length)
    assert tokens.input_ids[0, -1] == text.tokenizer.eos_token_id
    assert tokens.scoring_mask.all()
    assert tokens.attention_mask[0, -1] == 0


def test_xmod_without_a_language_is_refused_by_name(tiny_world, tmp_path):
    write_tiny_backbone("xmod", tmp_path, tiny_world)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"default_language": None}))
    with pytest.raises(InputError, match=r"xmod.*en_XX, sw_KE"):
        load_encoder(str(tmp_path))
