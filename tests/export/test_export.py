"""The exported directory: layouts, card, self-check, ONNX; real readers are in test_round_trips."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from distill.checkpoints.train_state import TrainState, write_state
from distill.encoders.directory import load_encoder
from distill.encoders.layouts import read_layout
from distill.errors import InputError
from distill.export.__main__ import _best_step, _student, main, portable
from distill.export.check import ExportCheckError, check_directory, encode_both


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "out"
    main([str(finished_run(True)), str(output)])
    return output


def test_every_layout_gives_the_students_embeddings(exported, finished_run, tmp_path):
    expected = encode_both(*load_encoder(str(finished_run(True) / "student")))
    assert read_layout(exported).kind == "late_interaction"
    for name in ("config.json", "model.safetensors", "artifact.metadata"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    for path in exported.glob("tokenizer*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert read_layout(tmp_path).kind == "stanford"
    settings = read_layout(tmp_path).settings
    assert settings is not None
    assert (settings.query_length, settings.document_length) == (12, 20)
    for directory in (exported, tmp_path):
        queries, documents = encode_both(*load_encoder(str(directory)))
        for ours, theirs in zip(expected[0], queries, strict=True):
            assert torch.equal(ours, theirs)
        if directory == exported:  # Stanford's files know punctuation for a skip list, or nothing.
            for ours, theirs in zip(expected[1], documents, strict=True):
                assert torch.equal(ours, theirs)


def test_the_card_tells_languages_data_map_and_command(exported):
    card = (exported / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["language"] == ["sw", "so", "en"]
    assert "| so-en.tsv | not stated |" in card
    assert "| pair | teacher, zero-shot | this model | English queries |" in card
    assert "| sw-en | 0.100 | 0.700 | 0.900 |" in card
    assert "--num_processes 2 distill/train.py recipe.yaml" in card
    assert "embeddings identical" in card


def test_the_recipe_names_no_directory_of_this_machine(exported):
    text = (exported / "recipe.yaml").read_text()
    assert yaml.safe_load(text)["pairs"] == ["sw-en", "so-en"]
    assert "/" not in text.replace("sw-en", "")
    assert portable({"a": ["/home/x/teacher", "org/model", 3]}) == {
        "a": ["teacher", "org/model", 3]
    }


def test_what_tokenising_sets_does_not_travel(exported):
    assert json.loads((exported / "tokenizer.json").read_text())["truncation"] is None
    assert "max_length" not in json.loads((exported / "tokenizer_config.json").read_text())


def test_a_directory_with_other_embeddings_is_found(exported, tmp_path):
    encoder, text = load_encoder(str(exported))
    for path in exported.rglob("*"):
        if path.is_file() and path.name != "SHA256SUMS":
            copy = tmp_path / path.relative_to(exported)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "1_Dense/model.safetensors")
    weights["linear.weight"][0, 0] += 1e-3
    save_file(weights, tmp_path / "1_Dense/model.safetensors")
    with pytest.raises(ExportCheckError, match="query 0 has other embeddings"):
        check_directory(tmp_path, encoder, text)


def test_without_expansion_the_stanford_reading_is_told(finished_run, tmp_path, capsys):
    main([str(finished_run(False)), str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "queries get [MASK] expansion, which those readers always add" in told
    assert "documents are scored with another skip list" in told


@pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None
    or importlib.util.find_spec("onnxruntime") is None,
    reason="needs the onnx extra",
)
@pytest.mark.slow
def test_onnx_of_any_length(finished_run, tmp_path, capsys):
    import onnxruntime

    run = finished_run(False)
    main([str(run), str(tmp_path / "out"), "--onnx"])
    assert "model_int8.onnx" in capsys.readouterr().out
    encoder, text = load_encoder(str(run / "student"))
    session = onnxruntime.InferenceSession(str(tmp_path / "out/onnx/model.onnx"))
    for texts in (["red"], ["red river and the golden market", "fire", "blue moon"]):
        tokens = text.queries(texts)
        with torch.no_grad():
            expected = encoder.eval()(tokens.input_ids, tokens.attention_mask)
        inputs = {
            "input_ids": tokens.input_ids.numpy(),
            "attention_mask": tokens.attention_mask.numpy(),
        }
        found = torch.from_numpy(session.run(None, inputs)[0])
        mask = tokens.scoring_mask
        torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-5)


def test_the_best_step_is_that_of_the_last_checkpoint_by_number(tmp_path):
    """Not by the time of its file; damaged states are passed over."""
    for step, best in ((3, 1), (12, 10), (7, 5)):
        path = tmp_path / f"checkpoints/step-{step}"
        path.mkdir(parents=True)
        write_state(path, TrainState(step=step, best={"best_step": best}), {})
    assert _best_step(tmp_path) == 10
    (tmp_path / "checkpoints/step-12/state.json").write_text("{}")
    assert _best_step(tmp_path) == 5
    assert _best_step(tmp_path / "none") is None


def test_a_run_that_has_steps_only_is_told_to_go_on(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    (tmp_path / "checkpoints/step-3").mkdir(parents=True)
    for which in ("best", "student"):
        with pytest.raises(InputError, match=f"no {which}/ .*start the run again: best/ comes"):
            _student(tmp_path, which)
