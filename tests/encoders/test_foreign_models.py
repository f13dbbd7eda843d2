"""Model directories as other tools write them, honoured in full or refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    ByT5Tokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from distill.encoders.directory import encoder_hash, load_encoder, save_encoder
from distill.encoders.layouts import read_layout
from distill.encoders.least_squares import fit_projection
from distill.encoders.pooled import load_any, load_together
from distill.encoders.settings import PLAIN_TEXT, TextSettings
from distill.encoders.text import TextEncoder
from distill.encoders.text_directory import load_text
from distill.encoders.vocabulary import prune
from distill.errors import InputError
from distill.search.matching import match_tokens

ST = "sentence_transformers.models"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["cat", "dog", "the", ".", "Cat", "[unused0]", "[unused1]"]


def make_tokenizer(words=WORDS, **special):
    numbers = {token: number for number, token in enumerate(words)}
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    names = {**names, **special}
    fast = Tokenizer(models.WordLevel(numbers, unk_token=names["unk"]))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if names.get("cls"):
        fast.post_processor = processors.TemplateProcessing(
            single=f"{names['cls']} $A {names['sep']}",
            special_tokens=[(names[key], numbers[names[key]]) for key in ("cls", "sep")],
        )
    given = {f"{key}_token": token for key, token in names.items() if token}
    return PreTrainedTokenizerFast(tokenizer_object=fast, **given)


SIZES = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}


@pytest.fixture
def bert():
    torch.manual_seed(5)
    return BertModel(BertConfig(**SIZES, max_position_embeddings=40)).eval()


def write_modules(path, *modules):
    """``modules.json`` and the modules' settings: (folder, class, settings or None)."""
    records = []
    for number, (folder, kind, config) in enumerate(modules):
        records.append({"idx": number, "name": str(number), "path": folder, "type": kind})
        if config is not None:
            (path / folder).mkdir(exist_ok=True)
            (path / folder / "config.json").write_text(json.dumps(config))
    (path / "modules.json").write_text(json.dumps(records))


def sentence_transformer(path, backbone, tokenizer, *after, pooling=None, **knobs):
    backbone.save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, **knobs}))
    pooling = pooling or {"pooling_mode_cls_token": True}
    write_modules(
        path,
        ("", f"{ST}.Transformer", None),
        ("1_Pooling", f"{ST}.Pooling", pooling),
        *after,
    )
    return path


def states_of(backbone, ids):
    with torch.no_grad():
        return backbone(torch.tensor([ids])).last_hidden_state[0]


def vectors_of(encoder, tokens):
    with torch.no_grad():
        found = encoder.eval()(tokens.input_ids, tokens.attention_mask)
    return [row[mask] for row, mask in zip(found, tokens.scoring_mask, strict=True)]


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors", "old format"])
def test_dense_layers_after_pooling_are_applied(tmp_path, bert, file):
    weight, bias = torch.randn(8, 16), torch.randn(8)
    second = torch.randn(8, 8)
    linear = {"in_features": 16, "out_features": 8, "bias": True}
    path = sentence_transformer(
        tmp_path,
        bert,
        make_tokenizer(),
        ("2_Dense", f"{ST}.Dense", {**linear, "activation_function": "torch.nn.Tanh"}),
        ("3_Dense", f"{ST}.Dense", {"activation_function": "torch.nn.Identity"}),
        ("4_Normalize", f"{ST}.Normalize", None),
    )
    state = {"linear.weight": weight, "linear.bias": bias}
    if file == "model.safetensors":
        save_file(state, path / "2_Dense" / file)
    else:
        torch.save(
            state,
            path / "2_Dense/pytorch_model.bin",
            _use_new_zipfile_serialization=file != "old format",
        )
    save_file({"linear.weight": second}, path / "3_Dense/model.safetensors")
    model, text, _ = load_any(path)
    assert model.embedding_dimension == 8
    cls = states_of(bert, [2, 7, 5, 3])[0]
    expected = functional.normalize(torch.tanh(weight @ cls + bias) @ second.T, dim=0)
    (found,) = vectors_of(model, text.queries(["the cat"]))
    torch.testing.assert_close(found[0], expected)


def test_a_residual_and_two_pools_behind_each_other(tmp_path, bert):
    config = {"activation_function": "torch.nn.ReLU", "use_residual": True}
    path = sentence_transformer(
        tmp_path,
        bert,
        make_tokenizer(),
        ("2_Dense", "sentence_transformers.base.modules.dense.Dense", config),
        pooling={"pooling_mode": ["mean", "lasttoken"]},
    )
    weight = torch.randn(32, 32)
    save_file({"linear.weight": weight}, path / "2_Dense/model.safetensors")
    model, text, _ = load_any(path)
    states = states_of(bert, [2, 7, 5, 3])
    pooled = torch.cat([states.mean(dim=0), states[-1]])
    expected = functional.normalize(torch.relu(weight @ pooled) + pooled, dim=0)
    # A longer neighbour pads the text; its vector must not change.
    found = vectors_of(model, text.queries(["the cat", "the cat the dog"]))[0]
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("mode", ["mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_other_pools(tmp_path, bert, mode):
    switch = {"lasttoken": "pooling_mode_lasttoken", "weightedmean": "pooling_mode_weightedmean"}
    key = switch.get(mode, f"pooling_mode_{mode}") + ("_tokens" if mode == "weightedmean" else "")
    path = sentence_transformer(tmp_path, bert, make_tokenizer(), pooling={key: True})
    (path / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "dot"}')
    model, text, _ = load_any(path)
    states = states_of(bert, [2, 7, 5, 3])
    places = torch.arange(1.0, 5).unsqueeze(1)
    expected = {
        "mean_sqrt_len_tokens": states.sum(dim=0) / 2,
        "weightedmean": (states * places).sum(dim=0) / 10,
        "lasttoken": states[3],
    }[mode]
    found = vectors_of(model, text.queries(["the cat", "the cat the dog"]))[0]
    torch.testing.assert_close(found[0], expected)


def test_do_lower_case_is_honoured_and_travels(tmp_path, bert, make_encoder):
    path = sentence_transformer(tmp_path / "a", bert, make_tokenizer(), do_lower_case=True)
    _, text, _ = load_any(path)
    assert text.queries(["THE Cat"]).input_ids.tolist() == [[2, 7, 5, 3]]
    # A late-interaction model keeps it when it is written again, with offsets of the text itself.
    encoder, own = make_encoder("WordPiece")
    own.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    save_encoder(tmp_path / "b", encoder, own)
    (tmp_path / "b/sentence_bert_config.json").write_text('{"do_lower_case": true}')
    for load in (load_text, lambda source: load_encoder(source)[1]):
        lowered = load(str(tmp_path / "b"))
        upper = lowered.queries(["THE RIVER"]).input_ids.tolist()
        assert upper == lowered.queries(["the river"]).input_ids.tolist()
        assert upper != own.queries(["THE RIVER"]).input_ids.tolist()
    save_encoder(tmp_path / "c", *load_encoder(str(tmp_path / "b")))
    again = load_encoder(str(tmp_path / "c"))[1]
    assert again.queries(["THE RIVER"]).input_ids.tolist() == upper
    assert again.query_offsets(["THE RIVER"])[0][2] == (0, 3)


def stanford(path, backbone, tokenizer, prefix, architecture, metadata=None, dimension=8):
    """A checkpoint as Stanford's code writes it: the backbone under a prefix, ``linear.weight``."""
    path.mkdir(exist_ok=True)
    weight = torch.randn(dimension, 16)
    state = {f"{prefix}.{key}": value for key, value in backbone.state_dict().items()}
    save_file(
        {key: value.contiguous() for key, value in {**state, "linear.weight": weight}.items()},
        path / "model.safetensors",
    )
    config = json.loads(backbone.config.to_json_string(use_diff=False))
    (path / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    tokenizer.save_pretrained(path)
    if metadata is not None:
        (path / "artifact.metadata").write_text(json.dumps(metadata))
    return weight


@pytest.mark.parametrize("architecture", ["ColBERT", "HF_ColBERT", "ColBERTv2Model"])
def test_an_architecture_named_colbert_has_its_own_projection(tmp_path, bert, architecture):
    weight = stanford(tmp_path, bert, make_tokenizer(), "bert", architecture)
    model, text, _ = load_any(tmp_path)
    (found,) = vectors_of(model, text.documents(["cat . dog"]))
    states = states_of(bert, [2, 11, 5, 8, 6, 3])[[0, 1, 2, 4, 5]]
    torch.testing.assert_close(found, functional.normalize(states @ weight.T, dim=-1))
    (tmp_path / "model.safetensors").unlink()
    bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    with pytest.raises(InputError, match=r"no linear\.weight"):
        load_any(tmp_path)


def test_a_projection_that_no_file_explains_is_refused(tmp_path, bert):
    for name in ("linear", "text_proj"):
        folder = tmp_path / name
        stanford(folder, bert, make_tokenizer(), "bert", "BertModel")
        state = {f"bert.{key}": value.contiguous() for key, value in bert.state_dict().items()}
        save_file({**state, f"{name}.weight": torch.ones(4, 16)}, folder / "model.safetensors")
        with pytest.raises(InputError, match=rf"weights {name}\.weight, and no file that says"):
            load_any(folder)


def test_a_sharded_colbert_is_read(tmp_path, bert):
    weight = stanford(tmp_path, bert, make_tokenizer(), "bert", "HF_ColBERT", {})
    expected = vectors_of(load_any(tmp_path)[0], load_any(tmp_path)[1].documents(["cat"]))
    state = {f"bert.{key}": value.contiguous() for key, value in bert.state_dict().items()}
    names = sorted(state)
    parts = [{key: state[key] for key in names[::2]}, {key: state[key] for key in names[1::2]}]
    parts[1]["linear.weight"] = weight
    index = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file(part, tmp_path / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(part, file))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    )
    model, text, _ = load_any(tmp_path)
    torch.testing.assert_close(vectors_of(model, text.documents(["cat"]))[0], expected[0])


@pytest.fixture
def roberta():
    torch.manual_seed(6)
    config = XLMRobertaConfig(**SIZES, max_position_embeddings=22, pad_token_id=1)
    return XLMRobertaModel(config).eval()


XLMR = ["<s>", "<pad>", "</s>", "<unk>", "cat", "dog", ".", "<mask>"]
XLMR_SPECIAL = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}


def test_colbert_on_xlmr_has_the_unknown_token_for_a_marker(tmp_path, roberta):
    tokenizer = make_tokenizer(XLMR, **XLMR_SPECIAL)
    metadata = {"query_maxlen": 8, "doc_maxlen": 16}
    weight = stanford(tmp_path, roberta, tokenizer, "roberta", "HF_ColBERT", metadata)
    model, text, _ = load_any(tmp_path)
    assert text.queries(["cat dog"]).input_ids.tolist() == [[0, 3, 4, 5, 2, 7, 7, 7]]
    (found,) = vectors_of(model, text.documents(["cat . dog"]))
    states = states_of(roberta, [0, 3, 4, 6, 5, 2])[[0, 1, 2, 4, 5]]
    torch.testing.assert_close(found, functional.normalize(states @ weight.T, dim=-1))


def test_a_decoder_expands_queries_with_its_end_of_text(tmp_path):
    words = ["<unk>", "<eos>", "cat", "dog", "[Q] ", "[D] "]
    none = dict.fromkeys(("pad", "cls", "sep", "mask"))
    tokenizer = make_tokenizer(words, **none, unk="<unk>", eos="<eos>")
    torch.manual_seed(7)
    decoder = LlamaModel(
        LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=1)
    ).eval()
    decoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_modules(
        tmp_path,
        ("", "sentence_transformers.models.Transformer", None),
        ("1_Dense", "pylate.models.Dense.Dense", {}),
    )
    weight = torch.randn(8, 16)
    save_file({"linear.weight": weight}, tmp_path / "1_Dense/model.safetensors")
    (tmp_path / "config_sentence_transformers.json").write_text('{"query_length": 6}')
    model, text, _ = load_any(tmp_path)
    tokens = text.queries(["cat dog"])
    assert tokens.input_ids.tolist() == [[2, 4, 3, 1, 1, 1]]
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 0, 0, 0]]
    (found,) = vectors_of(model, tokens)
    states = states_of(decoder, [2, 4, 3])
    torch.testing.assert_close(found[:3], functional.normalize(states @ weight.T, dim=-1))


@pytest.mark.parametrize(
    ("kind", "limit", "length"), [("roberta", 20, 64), ("bert", 40, 180), ("bert", 40, 41)]
)
def test_lengths_end_where_positions_end(tmp_path, roberta, bert, capsys, kind, limit, length):
    """XLM-R's 22 positions are 20 tokens: it counts from behind the padding token."""
    backbone = {"roberta": roberta, "bert": bert}[kind]
    tokenizer = make_tokenizer(XLMR, **XLMR_SPECIAL) if kind == "roberta" else make_tokenizer()
    source = tmp_path / f"{kind}-{length}"
    backbone.save_pretrained(source)
    tokenizer.save_pretrained(source)
    plain = TextSettings(
        query_prefix="", document_prefix="", query_length=length, document_length=length
    )
    encoder, text = load_encoder(str(source), settings=plain, bare="identity")
    assert text.settings.query_length == text.settings.document_length == limit
    assert load_text(str(source), settings=plain).settings.document_length == limit
    assert f"document_length {length} is cut to {limit}" in capsys.readouterr().err
    (found,) = vectors_of(encoder, text.documents(["cat dog " * 300]))
    assert len(found) == limit


@pytest.mark.parametrize("stored", [{"max_seq_length": 100}, {}])
def test_a_pooled_models_length_ends_there_too(tmp_path, roberta, stored):
    tokenizer = make_tokenizer(XLMR, **XLMR_SPECIAL)
    sentence_transformer(tmp_path, roberta, tokenizer)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(stored))
    model, text, _ = load_any(tmp_path)
    assert text.queries(["cat dog " * 60]).input_ids.shape == (1, 20)
    assert vectors_of(model, text.queries(["cat dog " * 60]))[0].shape == (1, 16)


UNKNOWN = {
    "layer norm": [("1_Pooling", f"{ST}.Pooling"), ("2_LayerNorm", f"{ST}.LayerNorm")],
    "splade": [("1_SpladePooling", "sentence_transformers.sparse_encoder.models.SpladePooling")],
    "weights of layers": [("1_W", f"{ST}.WeightedLayerPooling"), ("2_P", f"{ST}.Pooling")],
    "code of its own": [("1_Dense", "custom_st.Dense")],
    "outside": [("../1_Dense", f"{ST}.Dense")],
    "dense before pooling": [("1_Dense", f"{ST}.Dense"), ("2_P", f"{ST}.Pooling")],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_modules_that_are_not_understood_are_refused(tmp_path, bert, name):
    bert.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    modules = [(folder, kind, None) for folder, kind in UNKNOWN[name]]
    write_modules(tmp_path, ("", f"{ST}.Transformer", None), *modules)
    with pytest.raises(InputError, match=r"modules\.json"):
        load_any(tmp_path)


@pytest.mark.parametrize(
    ("folder", "config"),
    [
        ("1_Pooling", {"pooling_mode": "attention"}),
        ("1_Pooling", {"pooling_mode": []}),
        ("2_Dense", {"activation_function": "os.system"}),
        ("2_Dense", {"activation_function": "torch.nn.Module"}),
        ("2_Dense", {"activation_function": "torch.nn.Tanh", "module_input_name": "tokens"}),
        ("", {"processing_kwargs": {"text": {"padding": "longest"}}}),
        ("", {"transformer_task": "fill-mask"}),
    ],
)
def test_settings_that_are_not_understood_are_refused(tmp_path, bert, folder, config):
    dense = {"activation_function": "torch.nn.Tanh"}
    sentence_transformer(tmp_path, bert, make_tokenizer(), ("2_Dense", f"{ST}.Dense", dense))
    save_file({"linear.weight": torch.ones(4, 16)}, tmp_path / "2_Dense/model.safetensors")
    load_any(tmp_path)
    name = "config.json" if folder else "sentence_bert_config.json"
    (tmp_path / folder / name).write_text(json.dumps(config))
    with pytest.raises(InputError):
        load_any(tmp_path)


def test_a_bare_encoder_beside_its_student(tmp_path, bert, capsys):
    """No random projection: a bare teacher is its own hidden states, which its student learned."""
    bert.save_pretrained(tmp_path / "bare")
    make_tokenizer().save_pretrained(tmp_path / "bare")
    save_encoder(tmp_path / "student", *load_encoder(str(tmp_path / "bare"), bare="identity"))
    teacher, students, notes = load_together(tmp_path / "bare", {"student": tmp_path / "student"})
    assert len(notes) == 1
    assert "is a bare encoder: its own hidden states" in notes[0]
    asked = teacher.text.queries(["the cat"])
    expected = functional.normalize(states_of(bert, [2, 7, 5, 3]), dim=-1)
    for loaded in (teacher, students["student"]):
        torch.testing.assert_close(vectors_of(loaded.model, asked)[0], expected)


def test_a_pooled_teacher_beside_a_student_of_its_tokens(tmp_path, bert):
    sentence_transformer(tmp_path / "st", bert, make_tokenizer())
    save_encoder(tmp_path / "student", *load_encoder(str(tmp_path / "st"), bare="identity"))
    teacher, _, notes = load_together(tmp_path / "st", {"": tmp_path / "student"})
    assert "token by token" in notes[0]
    assert vectors_of(teacher.model, teacher.text.documents(["the cat"]))[0].shape == (4, 16)
    with pytest.raises(InputError, match="one vector a text, expected token vectors"):
        load_together(tmp_path / "student", {"": tmp_path / "st"})
    alone, _, _ = load_together(tmp_path / "st", {"": tmp_path / "st"})
    assert vectors_of(alone.model, alone.text.documents(["the cat"]))[0].shape == (1, 16)


def test_another_width_is_one_line(tmp_path, make_encoder):
    for name, width in (("wide", 16), ("narrow", 8)):
        save_encoder(tmp_path / name, *make_encoder("WordPiece", width))
    with pytest.raises(InputError, match=r"vectors of 8, expected the 16 of teacher"):
        load_together(tmp_path / "wide", {"sw": tmp_path / "narrow"})


#: What changes vectors, and must change a model's identity: a file, and what stands in it.
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


def test_a_tokenizer_of_python_code_tells_no_characters(make_encoder):
    text = TextEncoder(ByT5Tokenizer(), PLAIN_TEXT)
    assert text.queries(["the"]).input_ids.shape == (1, 4)
    assert text.query_offsets(["the"]) == text.document_offsets(["the"]) == [[(0, 0)] * 4]
    encoder, own = make_encoder("WordPiece")
    document = encoder(*list(vars(own.documents(["the river"])).values())[:2])[0]
    query = torch.randn(4, document.shape[1])
    assert match_tokens("the", query, text, "the river", document, own) == []
    with pytest.raises(InputError, match="least_squares with ByT5Tokenizer"):
        fit_projection(encoder, text, encoder, own, ["the river"])
    with pytest.raises(InputError, match="ByT5Tokenizer is Python code"):
        prune(encoder, text, {1})
