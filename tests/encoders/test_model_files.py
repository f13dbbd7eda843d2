"""Files of model directories: identity, code that never runs, damage that is one line."""

from __future__ import annotations

import json

import pytest
from encoders.foreign_directories import (
    ST,
    make_tokenizer,
    write_modules,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.encoders.directory import encoder_hash, save_encoder
from distill.encoders.layouts import read_layout
from distill.encoders.pooled import load_any
from distill.encoders.text_directory import load_text
from distill.errors import InputError

FILES = [
    "1_Pooling/config.json",
    "1_Dense/pytorch_model.bin",
    "2_Dense/model.safetensors",
    "projection/weights.bin",
    "modules.json",
    "vocab.txt",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentence_bert_config.json",
    "artifact.metadata",
    "model-00001-of-00002.safetensors",
]


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_changes_vectors_changes_the_identity(tmp_path, name):
    hashes = set()
    for content in ("one", "two", None):
        root = tmp_path / str(content)
        root.mkdir()
        (root / "config.json").write_text("{}")
        write_modules(root, ("", f"{ST}.Transformer", None), ("projection", f"{ST}.Dense", None))
        if content is not None:
            (root / name).parent.mkdir(exist_ok=True)
            text = '[{"path": "", "type": "pylate.T%s.Transformer"}]' % content  # noqa: UP031
            (root / name).write_text(text if name == "modules.json" else content)
        (root / "README.md").write_text(str(content))
        hashes.add(encoder_hash(root))
    assert len(hashes) == 3


def test_the_identity_is_of_the_files_and_not_of_the_place(tmp_path, make_encoder):
    encoder, text = make_encoder("WordPiece")
    for name in ("a", "b/c"):
        save_encoder(tmp_path / name, encoder, text)
    (tmp_path / "a/README.md").write_text("a card")
    (tmp_path / "a/onnx").mkdir()
    (tmp_path / "a/onnx/config.json").write_text("{}")
    assert encoder_hash(tmp_path / "a") == encoder_hash(tmp_path / "b/c")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_directory_never_runs(tmp_path, bert, monkeypatch, file):
    """Also where standard input would answer transformers' question with yes."""
    bert.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    record = json.loads((tmp_path / file).read_text())
    if file == "config.json":
        changes = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    else:
        changes = {
            "tokenizer_class": "Evil",
            "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
        }
    (tmp_path / file).write_text(json.dumps({**record, **changes}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for load in (load_any, lambda path: load_text(str(path))):
        try:
            load(tmp_path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert not (tmp_path / "ran").exists()


DAMAGED = ["", "{", "[]", "null", '{"a": ' * 5000, "9" * 5000, '"text"', "\udce9"]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize(
    "name",
    ["modules.json", "config.json", "config_sentence_transformers.json", "1_Dense/config.json"],
)
def test_damaged_settings_are_one_line(tmp_path, make_encoder, name, content):
    if name in ("config_sentence_transformers.json",) and content == "[]":
        content = "[1]"
    save_encoder(tmp_path, *make_encoder("WordPiece"))
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    if name == "modules.json" and content == "[]":
        load_any(tmp_path)  # As without the file: 1_Dense is found by its name.
        return
    with pytest.raises(InputError) as caught:
        load_any(tmp_path)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *("path", "type", "prompts", "query_length", "skiplist_words", "model_type", "auto_map"),
        *("query_expansion", "do_query_expansion", "query_prefix", "architectures", "strategy"),
        *("max_seq_length", "modality_config", "hidden_size", "pad_token_id", "length"),
    ]
)
VALUES = JSON | st.sampled_from(
    [
        *("MultiVectorEncoder", f"{ST}.Transformer", f"{ST}.Dense", f"{ST}.Pooling", "bert"),
        *("", "1_Dense", "fixed", -1, 10**40, {"query": "q: "}, {"strategy": "fixed"}, ["ColBERT"]),
    ]
)
RECORDS = st.dictionaries(KEYS, VALUES, max_size=5)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(
        [
            *("modules.json", "config.json", "config_sentence_transformers.json"),
            *("sentence_bert_config.json", "artifact.metadata", "2_Mask/config.json"),
        ]
    ),
    record=RECORDS | st.lists(RECORDS, max_size=3) | JSON,
)
def test_only_input_errors_come_of_any_settings(tmp_path, make_encoder, name, record):
    if not (tmp_path / "1_Dense").is_dir():
        save_encoder(tmp_path, *make_encoder("WordPiece"))
        (tmp_path / "2_Mask").mkdir()
    kept = (tmp_path / name).read_text() if (tmp_path / name).is_file() else None
    (tmp_path / name).write_text(json.dumps(record))
    try:
        read_layout(tmp_path)
        load_text(str(tmp_path))
    except InputError:
        pass
    finally:
        (tmp_path / name).unlink()
        if kept is not None:
            (tmp_path / name).write_text(kept)
