"""Reads encoder directories (`load_encoder`) and writes one that others can read (`save_encoder`).

The layout is the one that PyLate and sentence-transformers (6 and later) read: the transformers
model and tokenizer at the root, ``1_Dense/`` with the projection, ``modules.json``,
``sentence_bert_config.json`` and ``config_sentence_transformers.json`` with markers and lengths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.layouts import (
    DENSE,
    SETTINGS_FILE,
    STANFORD_FILE,
    Layout,
    local_directory,
    read_layout,
)
from distill.encoders.projection import fresh_projection, identity_projection, read_projection
from distill.encoders.settings import PLAIN_TEXT, TextSettings
from distill.encoders.text import TextEncoder, missing_markers
from distill.errors import InputError

_IDENTITY = "torch.nn.modules.linear.Identity"


def check_model_source(source: str, where: str, allow_downloads: bool) -> None:
    """Refuse what is neither a model directory nor, where downloads are allowed, a hub id.

    Raises:
        InputError: no directory with a ``config.json``, and no id that may be downloaded.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
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
) -> tuple[LateInteractionEncoder, TextEncoder]:
    """Load an encoder in float32 with its tokenizer, from any layout of `distill.encoders.layouts`.

    A late-interaction model brings its own projection and text settings. A bare backbone gets
    a fresh projection drawn with `seed`, and the markers of `settings` as new tokens whose vectors
    start at the mean of the vectors of "query" and "document"; or, with ``bare="identity"``, stays
    what it is: its own hidden states, no marker, no skip list.

    Args:
        source: a directory, or a hub id where `allow_downloads`.
        settings: text settings of a bare backbone; overrides the directory's own where given.
        embedding_dimension: D of a fresh projection.

    Raises:
        InputError: `source` is no model, or its files cannot be read.
    """
    check_model_source(source, "model", allow_downloads)
    layout = read_layout(local_directory(source, allow_downloads))
    try:
        tokenizer = AutoTokenizer.from_pretrained(layout.path, local_files_only=True)
        backbone = _load_backbone(layout)
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(
            f"model {source}: {first_line}",
            "a complete model directory with config, weights and tokenizer",
            "make or copy the model again",
        ) from error
    hidden = backbone.config.hidden_size
    if layout.settings is not None:
        settings = settings or with_markers(layout.settings, tokenizer)
        projection = read_projection(layout, hidden)
    elif bare == "identity":
        settings = settings or PLAIN_TEXT
        projection = identity_projection(hidden)
    else:
        settings = settings or TextSettings()
        projection = fresh_projection(hidden, embedding_dimension, seed)
        _add_markers(tokenizer, backbone, settings)
    return LateInteractionEncoder(backbone, projection), TextEncoder(tokenizer, settings)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bars, and no report that counts a dropped pooler as a problem."""
    verbosity = transformers_logging.get_verbosity()
    progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress:
            transformers_logging.enable_progress_bar()


def _load_backbone(layout: Layout) -> Any:
    with _quiet_transformers():
        backbone, report = AutoModel.from_pretrained(
            layout.path,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = sorted(
        key
        for key in report["missing_keys"]
        if not key.startswith("pooler.") and "position_ids" not in key
    )
    if missing:
        raise InputError(
            f"{layout.path}: weights without {missing[0]} and {len(missing) - 1} more",
            f"all of a {backbone.config.model_type} model",
            "copy the model again",
        )
    return backbone


def with_markers(settings: TextSettings, tokenizer: Any) -> TextSettings:
    """Turn a prompt that is one entry of the vocabulary into a marker.

    MultiVectorEncoder writes both as prompts: "[Q] " or "[unused0] ", which is one token, and
    "query: ", which is text.
    """
    vocabulary = tokenizer.get_vocab()
    changes = {}
    for side in ("query", "document"):
        prompt = getattr(settings, f"{side}_prompt")
        token = next((form for form in (prompt, prompt.strip()) if form in vocabulary), None)
        if token:
            changes.update({f"{side}_prompt": "", f"{side}_prefix": token})
    return replace(settings, **changes)


def _add_markers(tokenizer: Any, backbone: Any, settings: TextSettings) -> None:
    words = {settings.query_prefix: "query", settings.document_prefix: "document"}
    missing = missing_markers(tokenizer, settings)
    if not missing:
        return
    tokenizer.add_tokens(missing)
    table = backbone.get_input_embeddings().weight
    if len(tokenizer) > table.shape[0]:
        backbone.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = backbone.get_input_embeddings().weight
    with torch.no_grad():
        for prefix in missing:
            pieces = tokenizer(words[prefix], add_special_tokens=False)["input_ids"]
            table[tokenizer.convert_tokens_to_ids(prefix)] = table[pieces].mean(dim=0)


def read_text_settings(source: str, allow_downloads: bool = False) -> TextSettings:
    """Text settings of a late-interaction model as `load_encoder` honours them.

    Raises:
        InputError: a bare backbone, which has none.
    """
    layout = read_layout(local_directory(source, allow_downloads))
    if layout.settings is None:
        raise InputError(
            f"{source}: a bare backbone", "a late-interaction model", "train one from it first"
        )
    if layout.settings.query_prompt or layout.settings.document_prompt:
        tokenizer = AutoTokenizer.from_pretrained(layout.path, local_files_only=True)
        return with_markers(layout.settings, tokenizer)
    return layout.settings


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
    with _quiet_transformers():
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


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def encoder_hash(source: str | Path) -> str:
    """SHA-256 over the weights, tokenizer and settings of a local directory: a model's identity."""
    digest = hashlib.sha256()
    names = ["*.safetensors", "1_Dense/*.safetensors", "tokenizer.json", "config*.json", "*.bin"]
    names += [STANFORD_FILE, "[2-9]_Dense/*.safetensors"]
    paths = sorted({path for name in names for path in Path(source).glob(name)})
    for path in paths:
        digest.update(str(path.relative_to(source)).encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
