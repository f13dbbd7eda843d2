"""Reads the ``modules.json`` of sentence-transformers or PyLate: `read_modules`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.encoders.settings import NO_LIMIT
from distill.errors import InputError
from distill.json_files import read_json

#: Settings of a Transformer module; older files carry the backbone's kind.
_TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    *(
        f"sentence_{kind}_config.json"
        for kind in (
            *("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"),
            "mpnet",
        )
    ),
)
#: Modules after the Transformer, of token vectors and of one vector a text.
_TOKEN_MODULES = {"Dense", "MultiVectorMask", "Normalize"}
_POOLED_MODULES = {"Pooling", "Dense", "Normalize", "Dropout"}


@dataclass(frozen=True)
class Module:
    """A module of ``modules.json``: the last part of its class's name, and its directory."""

    kind: str
    path: Path


def read_modules(path: Path) -> list[Module]:
    """The modules of ``modules.json``, none where there is no such file.

    Raises:
        InputError: a broken file, a module outside `path`, or a list whose vectors would differ
            from those that this package computes.
    """
    file = path / "modules.json"
    modules = []
    for record in read_json(file, list, default=[], remedy="copy the model again"):
        folder, kind = (
            (record.get("path"), record.get("type")) if isinstance(record, dict) else (None, None)
        )
        if not isinstance(folder, str) or not isinstance(kind, str):
            raise InputError(
                f"{file}: {str(record)[:60]}", "a module's path and type", "copy the model again"
            )
        if Path(folder).is_absolute() or ".." in Path(folder).parts or "\0" in folder:
            raise InputError(
                f"{file}: path {folder!r}", "a folder of the model", "do not use this model"
            )
        if not kind.startswith(("sentence_transformers.", "pylate.")):
            raise InputError(
                f"{file}: type {kind!r}",
                "a module of sentence-transformers or PyLate: code of a model never runs here",
                "use a model without code of its own",
            )
        modules.append(Module(kind.rsplit(".", 1)[-1], path / folder))
    if not modules:
        return []
    kinds = [module.kind for module in modules]
    known = _POOLED_MODULES if "Pooling" in kinds else _TOKEN_MODULES
    unknown = [kind for kind in kinds[1:] if kind not in known]
    if kinds[0] != "Transformer":
        unknown.insert(0, kinds[0])
    elif not unknown and not _in_order(kinds):
        unknown = [" then ".join(kinds)]
    if unknown:
        raise InputError(
            f"{file}: {', '.join(unknown)}",
            "a Transformer, then Dense modules of its tokens, or Pooling and then Dense modules",
            "use another model: without that module its vectors would be other ones",
        )
    return modules


def _in_order(kinds: list[str]) -> bool:
    """Whether the modules come in an order that this package computes."""
    if "Pooling" in kinds:
        return kinds.count("Pooling") == 1 and kinds[1] == "Pooling"
    # Token vectors are normalised last, whether or not a module says so.
    return "Normalize" not in kinds or "Dense" not in kinds[kinds.index("Normalize") :]


def transformer_settings(folder: Path) -> dict[str, Any]:
    """Settings of a Transformer module.

    Raises:
        InputError: a broken file, or one that asks for another output than hidden states.
    """
    file = next((folder / name for name in _TRANSFORMER_FILES if (folder / name).is_file()), None)
    if file is None:
        return {}
    knobs: dict[str, Any] = read_json(file, dict)
    task = knobs.get("transformer_task", "feature-extraction")
    ways = knobs.get("modality_config")
    text = ways.get("text") if isinstance(ways, dict) else {}
    output = text.get("method_output_name", "last_hidden_state") if isinstance(text, dict) else text
    if task != "feature-extraction" or output != "last_hidden_state":
        raise InputError(
            f"{file}: {task} with {str(output)[:60]}",
            "feature-extraction of texts with last_hidden_state",
            "use an encoder of texts",
        )
    if (knobs.get("processing_kwargs") or {}) != {}:
        raise InputError(
            f"{file}: processing_kwargs", "none: texts are tokenised plainly", "use another model"
        )
    return knobs


def longest_text(folder: Path, knobs: dict[str, Any]) -> int:
    """Tokens to which a Transformer module cuts a text; `NO_LIMIT` where nothing says it."""
    stored = knobs.get("max_seq_length")
    if stored is None:
        config = read_json(folder / "tokenizer_config.json", dict, default={})
        stored = config.get("model_max_length")
    if stored is None:
        return NO_LIMIT
    if isinstance(stored, bool) or not isinstance(stored, int | float) or not stored >= 1:
        raise InputError(f"{folder}: length {str(stored)[:40]}", "a number", "copy the model again")
    # transformers writes 1e30 for "no limit".
    return int(min(stored, NO_LIMIT))
