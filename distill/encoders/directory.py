"""Encoder directories: read a backbone or a late-interaction model, write one others can read.

The layout is the one that PyLate and sentence-transformers (6 and later) read: the transformers
model and tokenizer at the root, ``1_Dense/`` with the projection, ``modules.json``,
``sentence_bert_config.json`` and ``config_sentence_transformers.json`` with markers and lengths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder
from distill.errors import InputError

_SETTINGS_FILE = "config_sentence_transformers.json"
_DENSE = "1_Dense"
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


def is_late_interaction(source: str) -> bool:
    """Whether a local directory already holds a projection and text settings."""
    return (Path(source) / _DENSE / "model.safetensors").is_file()


def load_encoder(
    source: str,
    *,
    settings: TextSettings | None = None,
    embedding_dimension: int = 128,
    seed: int = 0,
    allow_downloads: bool = False,
) -> tuple[LateInteractionEncoder, TextEncoder]:
    """Load an encoder in float32 with its tokenizer.

    A late-interaction directory brings its own projection and text settings. A bare backbone gets
    a fresh projection drawn with `seed`, and the markers of `settings` as new tokens whose vectors
    start at the mean of the vectors of "query" and "document".

    Args:
        source: a directory, or a hub id where `allow_downloads`.
        settings: text settings of a bare backbone; overrides the directory's own where given.
        embedding_dimension: D of a fresh projection.

    Raises:
        InputError: `source` is no model, or its files cannot be read.
    """
    check_model_source(source, "model", allow_downloads)
    local = not allow_downloads
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        backbone = _load_backbone(source, local)
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(
            f"model {source}: {first_line}",
            "a complete model directory with config, weights and tokenizer",
            "make or copy the model again",
        ) from error
    if is_late_interaction(source):
        settings = settings or read_text_settings(source)
        projection = _load_projection(Path(source) / _DENSE, backbone.config.hidden_size)
    else:
        settings = settings or TextSettings()
        generator = torch.Generator().manual_seed(seed)
        projection = _fresh_projection(backbone.config.hidden_size, embedding_dimension, generator)
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


def _load_backbone(source: str, local: bool) -> Any:
    with _quiet_transformers():
        return AutoModel.from_pretrained(
            source, local_files_only=local, trust_remote_code=False, dtype=torch.float32
        )


def _linear(weight_DH: Tensor) -> nn.Linear:
    layer = nn.Linear(weight_DH.shape[1], weight_DH.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight_DH)
    return layer


def _fresh_projection(hidden: int, dimension: int, generator: torch.Generator) -> nn.Linear:
    # Orthogonal rows keep the backbone's angles as far as D dimensions can.
    weight = torch.empty(dimension, hidden)
    nn.init.orthogonal_(weight, generator=generator)
    return _linear(weight)


def _load_projection(directory: Path, hidden: int) -> nn.Linear:
    try:
        weight = load_file(directory / "model.safetensors")["linear.weight"].float()
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(
            f"projection {directory}: {error}", "linear.weight (D, H)", "make the model again"
        ) from error
    if weight.shape[1] != hidden:
        raise InputError(
            f"projection {directory} takes {weight.shape[1]} features",
            f"the backbone's {hidden}",
            "use a projection that was trained with this backbone",
        )
    return _linear(weight)


def _add_markers(tokenizer: Any, backbone: Any, settings: TextSettings) -> None:
    words = {settings.query_prefix: "query", settings.document_prefix: "document"}
    missing = [prefix for prefix in words if prefix and prefix not in tokenizer.get_added_vocab()]
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


def read_text_settings(source: str) -> TextSettings:
    """Text settings of a late-interaction directory; keys of other readers are passed over."""
    path = Path(source) / _SETTINGS_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: {error}", "the model's text settings", "export it again") from (
            error
        )
    known = {field.name for field in fields(TextSettings)}
    chosen = {key: value for key, value in stored.items() if key in known}
    if "skiplist_words" in chosen:
        chosen["skiplist_words"] = tuple(chosen["skiplist_words"])
    return TextSettings(**chosen)


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
    (directory / _DENSE).mkdir(parents=True, exist_ok=True)
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
    save_file({"linear.weight": weight}, directory / _DENSE / "model.safetensors")
    _write_json(
        directory / _DENSE / "config.json",
        {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": False,
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
    dense = {"idx": 1, "name": "1", "path": _DENSE, "type": "pylate.models.Dense.Dense"}
    (directory / "modules.json").write_text(json.dumps([transformer, dense], indent=2) + "\n")
    settings = text.settings
    _write_json(
        directory / "sentence_bert_config.json",
        {"max_seq_length": settings.document_length, "do_lower_case": False},
    )
    _write_json(
        directory / _SETTINGS_FILE,
        {
            **asdict(settings),
            "skiplist_words": list(settings.skiplist_words),
            "model_type": "ColBERT",
            "similarity_fn_name": "MaxSim",
            "prompts": {},
            "default_prompt_name": None,
        },
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def encoder_hash(source: str | Path) -> str:
    """SHA-256 over the weights, tokenizer and settings of a local directory: a model's identity."""
    digest = hashlib.sha256()
    names = ("*.safetensors", "1_Dense/*.safetensors", "tokenizer.json", "config*.json", "*.bin")
    paths = sorted({path for name in names for path in Path(source).glob(name)})
    for path in paths:
        digest.update(str(path.relative_to(source)).encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
