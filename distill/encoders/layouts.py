"""Recognises a model directory (`read_layout`): its kind, text settings and projection.

- PyLate, and what this package writes: ``modules.json`` with token-level Dense modules, markers and
  lengths in ``config_sentence_transformers.json``
- sentence-transformers 6 and later (MultiVectorEncoder): Dense modules, markers as prompts, lengths
  and expansion in ``sentence_bert_config.json``, a mask module with the skip list
- Stanford ColBERT: ``artifact.metadata`` or an architecture of that name, and ``linear.weight``
  among the weights
- a bare transformers encoder, which includes a sentence-transformers model with pooling

What is not understood in full is refused: a module left out would change every vector.

Shapes: H hidden width of the backbone, D embedding dimension.
"""

from __future__ import annotations

import functools
import string
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from distill.encoders.modules import Module, longest_text, read_modules, transformer_settings
from distill.encoders.settings import NO_LIMIT, TextSettings
from distill.errors import InputError
from distill.json_files import read_json

DENSE = "1_Dense"
SETTINGS_FILE = "config_sentence_transformers.json"
STANFORD_FILE = "artifact.metadata"
#: What the hub is asked for: no weights of other frameworks, no training state.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", STANFORD_FILE, "pytorch_model*.bin"]
_HUB_FILES += ["*_Dense/pytorch_model.bin"]


@dataclass(frozen=True)
class Layout:
    """What a model directory holds.

    Attributes:
        path: the directory.
        kind: how it is read.
        settings: markers, lengths and masks that its files state; None for a bare backbone.
        transformer: directory of the backbone and its tokenizer.
        lower_case: whether text is put in lower case before it is tokenised.
        dense: directories of its token-level projections, in the order they are applied.
        pooling: of a sentence-transformers model, its Pooling module and those after it.
    """

    path: Path
    kind: Literal["late_interaction", "stanford", "bare"]
    settings: TextSettings | None
    transformer: Path
    lower_case: bool = False
    dense: tuple[Path, ...] = ()
    pooling: tuple[Module, ...] = ()


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
    modules = read_modules(path)
    transformer = modules[0].path if modules else path
    knobs = transformer_settings(transformer)
    lower_case = bool(knobs.get("do_lower_case"))
    kinds = [module.kind for module in modules]
    if "Pooling" in kinds:
        pooling = tuple(modules[1:])
        return Layout(path, "bare", None, transformer, lower_case, pooling=pooling)
    dense = tuple(module.path for module in modules if module.kind == "Dense")
    if not dense and _is_stanford(path):
        return Layout(path, "stanford", _stanford_settings(path), transformer, lower_case)
    if not modules and (path / DENSE / "model.safetensors").is_file():
        dense = (path / DENSE,)
    if not dense:
        return Layout(path, "bare", None, transformer, lower_case)
    settings = _settings(path, transformer, knobs, modules)
    return Layout(path, "late_interaction", settings, transformer, lower_case, dense)


def _is_stanford(path: Path) -> bool:
    if (path / STANFORD_FILE).is_file():
        return True
    named = read_json(path / "config.json", dict, default={}).get("architectures") or []
    return isinstance(named, list) and any("colbert" in str(name).lower() for name in named)


def _settings(
    path: Path, transformer: Path, knobs: dict[str, Any], modules: list[Module]
) -> TextSettings:
    file = path / SETTINGS_FILE
    stored = read_json(file, dict, default={})
    if stored.get("model_type") == "MultiVectorEncoder":
        chosen = _multi_vector_settings(path, transformer, stored, knobs, modules)
    else:
        known = {field.name for field in fields(TextSettings)}
        chosen = {key: value for key, value in stored.items() if key in known and value is not None}
        # What a file of PyLate does not state has PyLate's default, which expands queries.
        chosen.setdefault("do_query_expansion", True)
    return _text_settings(chosen, file)


def _text_settings(chosen: dict[str, Any], file: Path) -> TextSettings:
    """`TextSettings` from a file's values, each of the kind that it must be.

    Raises:
        InputError: a value of another kind.
    """
    kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(TextSettings)}
    for key, value in chosen.items():
        words = list(value) if isinstance(value, list | tuple) else None
        if kinds[key] is tuple:
            fits = words is not None and all(isinstance(word, str) for word in words)
            chosen = {**chosen, key: tuple(words or ())}
        else:
            fits = type(value) is kinds[key] and (kinds[key] is not int or value <= NO_LIMIT)
        if not fits:
            raise InputError(
                f"{file}: {key} {str(value)[:40]!r}",
                "strings" if kinds[key] is tuple else f"a value of type {kinds[key].__name__}",
                "copy the model again",
            )
    return TextSettings(**chosen)


def _multi_vector_settings(
    path: Path,
    transformer: Path,
    stored: dict[str, Any],
    knobs: dict[str, Any],
    modules: list[Module],
) -> dict[str, Any]:
    """Settings of a MultiVectorEncoder: prompts, knobs of its transformer, its mask module."""
    prompts = stored.get("prompts") or {}
    knobs = {**stored, **knobs}
    expansion = knobs.get("query_expansion") or {}
    if not isinstance(prompts, dict) or not isinstance(expansion, dict):
        raise InputError(
            f"{path}: prompts or query_expansion", "JSON objects", "copy the model again"
        )
    chosen: dict[str, Any] = {
        "query_prefix": "",
        "document_prefix": "",
        "query_prompt": prompts.get("query") or "",
        "document_prompt": prompts.get("document") or "",
        "skiplist_words": (),
        "do_query_expansion": bool(stored.get("do_query_expansion", False)),
    }
    most = longest_text(transformer, knobs)
    chosen["query_length"] = knobs.get("query_length") or most
    chosen["document_length"] = knobs.get("document_length") or most
    if expansion:
        if expansion.get("strategy") != "fixed" or expansion.get("token"):
            raise InputError(
                f"{path}: query expansion {expansion}",
                "the fixed strategy with the tokenizer's mask token",
                "use a model that expands queries as ColBERT does",
            )
        chosen.update(
            do_query_expansion=True,
            query_length=expansion.get("length") or 32,
            attend_to_expansion_tokens=bool(expansion.get("attend")),
        )
    masks = [module.path for module in modules if module.kind == "MultiVectorMask"]
    if masks:
        mask = read_json(masks[0] / "config.json", dict, default={})
        if mask.get("keep_only_token_ids") or "query" in (mask.get("skiplist_tasks") or ()):
            raise InputError(
                f"{masks[0]}: tokens are dropped from queries too, or only some are kept",
                "a skip list for documents",
                "use a text model with a plain skip list",
            )
        chosen["skiplist_words"] = mask.get("skiplist_words") or ()
    return chosen


def _stanford_settings(path: Path) -> TextSettings:
    """Settings of Stanford's ColBERT, which always expands queries with [MASK]."""
    file = path / STANFORD_FILE
    metadata = read_json(file, dict, default={})
    punctuation = tuple(string.punctuation)
    return _text_settings(
        {
            "query_prefix": metadata.get("query_token_id") or "[unused0]",
            "document_prefix": metadata.get("doc_token_id") or "[unused1]",
            "query_length": metadata.get("query_maxlen") or 32,
            "document_length": metadata.get("doc_maxlen") or 220,
            "do_query_expansion": True,
            "attend_to_expansion_tokens": bool(metadata.get("attend_to_mask_tokens", False)),
            "skiplist_words": punctuation if metadata.get("mask_punctuation", True) else (),
        },
        file,
    )
