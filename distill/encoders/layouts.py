"""Recognises a model directory (`read_layout`): its kind, text settings and projection.

- PyLate, and what this package writes: ``modules.json`` with token-level Dense modules, markers and
  lengths in ``config_sentence_transformers.json``
- sentence-transformers 6 and later (MultiVectorEncoder): Dense modules, markers as prompts, lengths
  and expansion in ``sentence_bert_config.json``, a mask module with the skip list
- Stanford ColBERT: ``artifact.metadata``, and ``linear.weight`` among the weights
- a bare transformers encoder, which includes a sentence-transformers model with pooling

Shapes: H hidden width of the backbone, D embedding dimension.
"""

from __future__ import annotations

import functools
import json
import string
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from distill.encoders.settings import TextSettings
from distill.errors import InputError

DENSE = "1_Dense"
SETTINGS_FILE = "config_sentence_transformers.json"
STANFORD_FILE = "artifact.metadata"
#: What the hub is asked for: no weights of other frameworks, no training state.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", STANFORD_FILE, "pytorch_model.bin"]


@dataclass(frozen=True)
class Layout:
    """What a model directory holds.

    Attributes:
        path: the directory.
        kind: how it is read.
        settings: markers, lengths and masks that its files state; None for a bare backbone.
        dense: directories of its token-level projections, in the order they are applied.
    """

    path: Path
    kind: Literal["late_interaction", "stanford", "bare"]
    settings: TextSettings | None
    dense: tuple[Path, ...] = ()


@functools.lru_cache(maxsize=16)
def local_directory(source: str, allow_downloads: bool = False) -> Path:
    """The directory of a model: `source` itself, or a snapshot of a hub id (``org/name``).

    A hub id may name a revision, ``org/name@v1``. Each rank that has not the files asks the hub;
    the hub's own cache and locks see to it that a machine downloads once.

    Raises:
        InputError: no such directory and downloads are not allowed, or the hub has no such model.
    """
    if Path(source).is_dir() or not allow_downloads:
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = source.partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first_line = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(
            f"model {source!r}: {first_line}",
            "a directory, or an id that the hub answers for",
            "check the name and the connection, or copy the model here and name its directory",
        ) from error
    return Path(found)


def read_layout(path: Path) -> Layout:
    """Tell what a model directory holds from its small files; weights are not read.

    Raises:
        InputError: a file of its layout is missing, broken, or asks for what cannot be honoured.
    """
    modules = _read_json(path / "modules.json", []) if (path / "modules.json").is_file() else []
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    if modules and "Pooling" in kinds:
        return Layout(path, "bare", None)
    dense = tuple(
        path / str(module["path"])
        for module, kind in zip(modules, kinds, strict=True)
        if kind == "Dense"
    )
    architectures = _read_json(path / "config.json", {}).get("architectures") or []
    is_stanford = (path / STANFORD_FILE).is_file() or "HF_ColBERT" in architectures
    if not dense and is_stanford:
        return Layout(path, "stanford", _stanford_settings(path))
    if not modules and (path / DENSE / "model.safetensors").is_file():
        dense = (path / DENSE,)
    if dense:
        return Layout(path, "late_interaction", _settings(path, modules, kinds), dense)
    return Layout(path, "bare", None)


def _settings(path: Path, modules: list[dict[str, Any]], kinds: list[str]) -> TextSettings:
    stored = _read_json(path / SETTINGS_FILE, {})
    if stored.get("model_type") == "MultiVectorEncoder":
        return _multi_vector_settings(path, stored, modules, kinds)
    known = {field.name for field in fields(TextSettings)}
    chosen = {key: value for key, value in stored.items() if key in known and value is not None}
    if "skiplist_words" in chosen:
        chosen["skiplist_words"] = tuple(chosen["skiplist_words"])
    # What a file of PyLate does not state has PyLate's default, which expands queries.
    chosen.setdefault("do_query_expansion", True)
    return TextSettings(**chosen)


def _multi_vector_settings(
    path: Path, stored: dict[str, Any], modules: list[dict[str, Any]], kinds: list[str]
) -> TextSettings:
    """Settings of a MultiVectorEncoder: prompts, knobs of its transformer, its mask module."""
    prompts = stored.get("prompts") or {}
    knobs = {**stored, **_read_json(path / "sentence_bert_config.json", {})}
    chosen: dict[str, Any] = {
        "query_prefix": "",
        "document_prefix": "",
        "query_prompt": prompts.get("query") or "",
        "document_prompt": prompts.get("document") or "",
        "skiplist_words": (),
        "do_query_expansion": bool(stored.get("do_query_expansion", False)),
    }
    most = knobs.get("max_seq_length") or 512
    chosen["query_length"] = knobs.get("query_length") or most
    chosen["document_length"] = knobs.get("document_length") or most
    expansion = knobs.get("query_expansion")
    if expansion:
        if expansion.get("strategy") != "fixed" or expansion.get("token"):
            raise InputError(
                f"{path}: query expansion {expansion}",
                "the fixed strategy with the tokenizer's mask token",
                "use a model that expands queries as ColBERT does",
            )
        chosen.update(
            do_query_expansion=True,
            query_length=int(expansion.get("length") or 32),
            attend_to_expansion_tokens=bool(expansion.get("attend")),
        )
    if "MultiVectorMask" in kinds:
        folder = path / str(modules[kinds.index("MultiVectorMask")]["path"])
        mask = _read_json(folder / "config.json", {})
        if mask.get("keep_only_token_ids") or "query" in (mask.get("skiplist_tasks") or ()):
            raise InputError(
                f"{folder}: tokens are dropped from queries too, or only some are kept",
                "a skip list for documents",
                "use a text model with a plain skip list",
            )
        chosen["skiplist_words"] = tuple(mask.get("skiplist_words") or ())
    return TextSettings(**chosen)


def _stanford_settings(path: Path) -> TextSettings:
    """Settings of Stanford's ColBERT, which always expands queries with [MASK]."""
    metadata = _read_json(path / STANFORD_FILE, {})
    return TextSettings(
        query_prefix=metadata.get("query_token_id") or "[unused0]",
        document_prefix=metadata.get("doc_token_id") or "[unused1]",
        query_length=int(metadata.get("query_maxlen") or 32),
        document_length=int(metadata.get("doc_maxlen") or 220),
        do_query_expansion=True,
        attend_to_expansion_tokens=bool(metadata.get("attend_to_mask_tokens", False)),
        skiplist_words=tuple(string.punctuation) if metadata.get("mask_punctuation", True) else (),
    )


def _read_json(path: Path, default: Any) -> Any:
    """Contents of a JSON file; `default` where there is none."""
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: {error}", "a JSON file", "copy the model again") from error
