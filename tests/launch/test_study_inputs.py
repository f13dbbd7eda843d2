"""Inputs of the studies: collections converted and cut; what is tested is not trained on."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from distill.encoders.pooled import load_any
from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.languages import SEVEN_PAIRS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "launch" / "studies"))

import prepare
import published
import study_collections

LANGUAGES = [pair.split("-")[0] for pair in SEVEN_PAIRS]
CODES = {"swh": "sw", "deu": "de"}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def write_collection(folder, num_queries=1):
    write(folder / "docs.jsonl", lines({"id": "d", "text": f"The Document of {folder.name}"}))
    for language in ("sw", "de"):
        names = [f"{language}{number}" for number in range(num_queries)]
        queries = [{"id": name, "text": f"query {name} {folder.name}"} for name in names]
        write(folder / f"queries-{language}.jsonl", lines(*queries))
        write(folder / f"qrels-{language}.tsv", "".join(f"{name} 0 d 1\n" for name in names))


@pytest.fixture
def given(tmp_path):
    """Folders of bitext, collections and published files, all of invented sentences."""
    for name in study_collections.COLLECTIONS:
        write_collection(tmp_path / "collections" / name, 70)
    for code in CODES:
        write(tmp_path / f"published/tatoeba/tatoeba.{code}-eng.{code}", f"Tested in {code}.\n")
        write(tmp_path / f"published/tatoeba/tatoeba.{code}-eng.eng", f"It is tested {code}.\n")
    item = {
        "question": {"en": "where to", "de": "wohin", "zh": "去 哪里"},
        "mr": {"sparql": "ASK {}"},
    }
    for name in ("mtop", "mcwq"):
        for split in ("test", "dev"):
            write(tmp_path / f"published/xsemplr/{name}/{split}.json", json.dumps([item]))
    question = {"id": "1", "question": [{"language": "en", "string": "Who is it?"},
                                        {"language": "de", "string": "Wer ist es?"}],
                "query": {"sparql": "SELECT ?x {}"}, "answers": []}  # fmt: skip
    write(
        tmp_path / "published/qald_9_plus/q_test_dbpedia.json",
        json.dumps({"questions": [question]}),
    )
    for language in LANGUAGES:
        rows = [f"The {n} boats of {language} sail far\t{language} {n} mashua zinaenda mbali\tmade"
                for n in range(60)]  # fmt: skip
        # Both sides of a test, each in other words on the other side.
        rows += [
            "IT is tested deu.\tkwa namna nyingine\tmade",
            "In other words\ttested in swh.\tmade",
        ]
        write(tmp_path / f"bitext/en-{language}.tsv", "\n".join(rows) + "\n")
    return argparse.Namespace(
        bitext=tmp_path / "bitext",
        collections=tmp_path / "collections",
        published=tmp_path / "published",
        output=tmp_path / "output",
        num_pairs=30,
    )


def test_what_is_tested_is_not_trained_on(given, monkeypatch):
    # With no held-out share the sentences would all be trained on.
    monkeypatch.setattr(prepare, "split_of", lambda target: "train")
    given.num_pairs = 60
    prepare.write_inputs(given)
    for pair in SEVEN_PAIRS:
        text = (given.output / f"bitext/{pair}.tsv").read_text(encoding="utf-8").casefold()
        assert len(text.splitlines()) == 60
        assert "tested" not in text
    given.num_pairs = 61
    with pytest.raises(InputError, match="60 training pairs"):
        prepare.write_inputs(given)


def test_collections_are_converted_and_cut(given):
    prepare.write_inputs(given)
    made = given.output / "collections"
    assert load_collection(made / "qald").measures[0] == "AnswerF1"
    assert load_collection(made / "mcwq_dev").answers["0"].query == "ASK {}"
    assert len(load_collection(made / "tatoeba").pools["sw-en"]) == 1
    flores = load_collection(made / "flores_dev")
    assert {pair: len(queries) for pair, queries in flores.queries.items()} == {
        "sw-en": 60,
        "de-en": 60,
    }
    assert list(flores.qrels["de-en"]) == list(flores.queries["de-en"])
    assert len(load_collection(made / "xquad_de").queries["sw-en"]) == 70
    # The documents that english_teacher's students read are those of its own tests.
    read = (given.output / "documents/en-en.tsv").read_text(encoding="utf-8")
    assert "The Document of udhr" in read
    assert "tested" not in read


def test_published_files_may_be_left_out(given):
    given.published = None
    prepare.write_inputs(given)
    names = {path.name for path in (given.output / "collections").iterdir()}
    assert names == {*study_collections.COLLECTIONS, "short", "short_dev"}
    (given.collections / "udhr").rename(given.collections / "other")
    with pytest.raises(InputError, match="no udhr"):
        prepare.write_inputs(given)


def test_the_pooled_layout_gives_mean_vectors(tmp_path, tokenizer_files):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=9,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        initializer_range=0.5,
    )
    backbone = BertModel(config, add_pooling_layer=False).eval()
    backbone.save_pretrained(tmp_path / "backbone")
    tokenizer_files(tmp_path / "backbone")
    published.write_pooled(tmp_path / "backbone", tmp_path / "pooled", "read ")
    model, text, _ = load_any(tmp_path / "pooled")
    for tokens in (text.queries(["a b"]), text.documents(["a b"])):
        # [CLS] read a b [SEP]
        assert tokens.input_ids.tolist() == [[1, 4, 5, 6, 2]]
        assert tokens.scoring_mask.sum() == 1
        with torch.no_grad():
            found = model(tokens.input_ids, tokens.attention_mask)[0, 0]
            hidden = backbone(tokens.input_ids).last_hidden_state[0]
        wanted = torch.nn.functional.normalize(hidden.mean(dim=0), dim=0)
        assert torch.allclose(found, wanted, atol=1e-6)
    (tmp_path / "backbone/model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model.safetensors"):
        published.write_pooled(tmp_path / "backbone", tmp_path / "again", "")


@pytest.fixture
def tokenizer_files():
    """Write a tokenizer of single words into a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def save(folder):
        words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "read", "a", "b", "c", "[MASK]"]
        model = models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        special = {
            f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "CLS", "SEP", "UNK", "MASK")
        }
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)

    return save
