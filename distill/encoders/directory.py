"""Reads encoder directories (`load_encoder`) and writes one that others can read (`save_encoder`).

The layout is the one that PyLate and sentence-transformers (6 and later) read: the transformers
model and tokenizer at the root, ``1_Dense/`` with the projection, ``modules.json``,
``sentence_bert_config.json`` and ``config_sentence_transformers.json`` with markers and lengths.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from distill.encoders.backbone import (
    load_backbone,
    load_config,
    load_tokenizer,
    quiet_transformers,
    stored_precision,
    within_positions,
)
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.layouts import (
    DENSE,
    SETTINGS_FILE,
    Layout,
    local_directory,
    read_layout,
)
from distill.encoders.markers import add_markers, own_settings
from distill.encoders.modules import read_modules
from distill.encoders.projection import fresh_projection, identity_projection, read_projection
from distill.encoders.settings import PLAIN_TEXT, TextSettings
from distill.encoders.sums import check_sums, write_sums
from distill.encoders.text import TextEncoder
from distill.errors import InputError

#: Suffixes of files that vectors depend on: weights, settings, vocabularies, ColBERT's metadata.
_HASHED = {".safetensors", ".bin", ".json", ".txt", ".model", ".spm", ".vocab", ".tiktoken"}
_HASHED |= {".metadata", ".jinja"}
#: A late-interaction model's projection among a backbone's weights, as its authors name it.
_PROJECTION = re.compile(r"^(linear|projection|projector|\w*proj)\.")
_IDENTITY = "torch.nn.modules.linear.Identity"


def check_model_source(source: str, where: str, allow_downloads: bool) -> None:
    """Refuse what is neither a model directory nor, where downloads are allowed, a hub id.

    Raises:
        InputError: no directory with a ``config.json``, and no id that may be downloaded.
    """
    path = Path(source)
    if path.is_dir():
        if not ((path / "config.json").is_file() or (path / "modules.json").is_file()):
            raise InputError(
                f"{where}: directory {source} has no config.json",
                "a transformers or late-interaction model directory",
                "name the directory that save_pretrained wrote",
            )
        return
    if not allow_downloads:
        raise InputError(
            f"{where}: {source!r} is no directory here",
            "a model directory, or a hub id together with allow_downloads=true",
            "check the path (`make demo` makes the demo's models) or set allow_downloads=true",
        )


def is_late_interaction(source: str, allow_downloads: bool = False) -> bool:
    """Whether a model already has a projection and text settings, in any layout."""
    return read_layout(local_directory(source, allow_downloads)).kind != "bare"


def load_encoder(
    source: str,
    *,
    settings: TextSettings | None = None,
    embedding_dimension: int = 128,
    seed: int = 0,
    allow_downloads: bool = False,
    bare: Literal["fresh", "identity"] = "fresh",
    frozen_in: torch.dtype | None = None,
    sums_checked: bool = False,
) -> tuple[LateInteractionEncoder, TextEncoder]:
    """Load an encoder with its tokenizer from any layout of `distill.encoders.layouts`.

    Weights are float32, unless `frozen_in` says otherwise.

    A late-interaction model brings its own projection and text settings. A bare backbone gets
    a fresh projection drawn with `seed`, and the markers of `settings` as new tokens whose vectors
    start at the mean of the vectors of "query" and "document"; or, with ``bare="identity"``, stays
    what it is: its own hidden states, no marker, no skip list.

    Args:
        source: a directory, or a hub id where `allow_downloads`.
        settings: text settings of a bare backbone; overrides the directory's own where given.
        embedding_dimension: D of a fresh projection.
        frozen_in: precision that a frozen encoder will compute in. Its backbone then loads in the
            narrower of this and its files' own, and the caller converts it where it computes: host
            memory holds no float32 copy of half-precision weights.
        sums_checked: the caller has compared the files with their note, once for several ranks.

    Raises:
        InputError: `source` is no model, or its files cannot be read.
    """
    check_model_source(source, "model", allow_downloads)
    directory = local_directory(source, allow_downloads)
    if not sums_checked:
        check_sums(directory)
    layout = read_layout(directory)
    tokenizer = load_tokenizer(layout.transformer, layout.lower_case)
    precision = torch.float32
    if frozen_in is not None:
        own = stored_precision(layout.transformer)
        precision = own if own.itemsize < frozen_in.itemsize else frozen_in
    backbone, others = load_backbone(layout.transformer, precision)
    hidden = backbone.config.hidden_size
    if layout.settings is not None:
        settings = settings or own_settings(layout, tokenizer)
        projection = read_projection(layout, hidden)
    else:
        _refuse_projection(layout, others)
        settings = settings or (PLAIN_TEXT if bare == "identity" else TextSettings())
        if bare == "identity":
            projection = identity_projection(hidden)
        else:
            projection = fresh_projection(hidden, embedding_dimension, seed)
            add_markers(tokenizer, backbone, settings)
    settings = within_positions(settings, backbone.config, source)
    return LateInteractionEncoder(backbone, projection), TextEncoder(tokenizer, settings)


def _refuse_projection(layout: Layout, others: list[str]) -> None:
    """Refuse a directory that calls itself bare but whose weights hold a projection.

    Raises:
        InputError: weights of that kind next to the backbone's.
    """
    own = [name for name in others if name.endswith(".weight") and _PROJECTION.search(name)]
    if own:
        raise InputError(
            f"model {layout.path}: weights {own[0]}, and no file that says what they are for",
            "a bare encoder, or a late-interaction model with artifact.metadata or modules.json",
            "add the file of the layout that it was written in",
        )


def read_text_settings(source: str, allow_downloads: bool = False) -> TextSettings:
    """Text settings of a late-interaction model as `load_encoder` honours them.

    Raises:
        InputError: a bare backbone, which has none.
    """
    layout = read_layout(local_directory(source, allow_downloads))
    tokenizer = load_tokenizer(layout.transformer, layout.lower_case)
    settings = own_settings(layout, tokenizer)
    return within_positions(settings, load_config(layout.transformer), source)


def save_encoder(
    directory: str | Path,
    model: LateInteractionEncoder,
    text: TextEncoder,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write a late-interaction directory.

    Args:
        directory: made where missing; files of the same names are replaced.
        model: gives configuration and, without `state`, the weights.
        text: tokenizer and text settings.
        state: full state dict gathered from a sharded `model` (keys ``backbone.…`` and
            ``projection.weight``); one rank writes.
    """
    directory = Path(directory)
    (directory / DENSE).mkdir(parents=True, exist_ok=True)
    if state is None:
        state = model.state_dict()
    backbone_state = {
        key.removeprefix("backbone."): tensor.detach().float().cpu().contiguous()
        for key, tensor in state.items()
        if key.startswith("backbone.") and not key.startswith("backbone.pooler.")
    }
    with quiet_transformers():
        model.backbone.save_pretrained(  # type: ignore[operator]
            directory, state_dict=backbone_state
        )
    text.tokenizer.save_pretrained(directory)
    weight = state["projection.weight"].detach().float().cpu().contiguous()
    dense = {"linear.weight": weight}
    if "projection.bias" in state:
        dense["linear.bias"] = state["projection.bias"].detach().float().cpu().contiguous()
    save_file(dense, directory / DENSE / "model.safetensors")
    _write_json(
        directory / DENSE / "config.json",
        {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": "linear.bias" in dense,
            "activation_function": _IDENTITY,
            "use_residual": False,
        },
    )
    transformer = {
        "idx": 0,
        "name": "0",
        "path": "",
        "type": "sentence_transformers.models.Transformer",
    }
    module = {"idx": 1, "name": "1", "path": DENSE, "type": "pylate.models.Dense.Dense"}
    (directory / "modules.json").write_text(json.dumps([transformer, module], indent=2) + "\n")
    settings = text.settings
    prompts = {
        "query_prompt": settings.query_prompt,
        "document_prompt": settings.document_prompt,
    }
    _write_json(
        directory / "sentence_bert_config.json",
        {"max_seq_length": settings.document_length, "do_lower_case": False},
    )
    _write_json(
        directory / SETTINGS_FILE,
        {
            **{
                key: value for key, value in asdict(settings).items() if value or key not in prompts
            },
            "skiplist_words": list(settings.skiplist_words),
            "model_type": "ColBERT",
            "similarity_fn_name": "MaxSim",
            "prompts": {key.removesuffix("_prompt"): text for key, text in prompts.items() if text},
            "default_prompt_name": None,
        },
    )
    write_sums(directory)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


#: Files that no vector depends on, though their kind suggests it.
_NOT_HASHED = {"readme.txt", "license.txt", "requirements.txt", "trainer_state.json"}


def encoder_hash(source: str | Path) -> str:
    """SHA-256 over all that a local model's vectors depend on: its identity.

    That is every file of weights, settings, vocabulary or metadata in the directory and in those
    of its modules; other runtimes' copies of the weights (``onnx/``) are no modules.
    """
    root = Path(source)
    folders = {root, *root.glob("[0-9]*_*")}
    if root.is_dir():
        folders |= {module.path for module in read_modules(root)}
    paths = {
        path
        for folder in folders
        for path in folder.glob("*")
        if path.suffix in _HASHED and path.name.lower() not in _NOT_HASHED and path.is_file()
    }
    digest = hashlib.sha256()
    for path in sorted(paths):
        # Names end and sizes stand before contents: no file's bytes can pass for another's name.
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
