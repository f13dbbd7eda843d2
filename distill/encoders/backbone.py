"""Loads transformers' part of a model directory (`load_backbone`), and never its code.

Shapes: none; lengths are in tokens.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from tokenizers import normalizers
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING
from transformers.utils import logging as transformers_logging

from distill.encoders.settings import NO_LIMIT, TextSettings
from distill.errors import InputError

#: What transformers, safetensors and torch raise for files that are missing, cut off or forged.
_BROKEN_FILES = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ImportError),
    *(RuntimeError, AssertionError, SafetensorError, StrictDataclassError, ZeroDivisionError),
)
_WITH_DECODERS = {"t5", "mt5", "umt5"}
#: Kinds whose positions are counted from behind the padding token's (fairseq's convention).
_COUNTED_FROM_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm"),
    *("mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}

#: Names in safetensors' headers.
_HALF = {"BF16": torch.bfloat16, "F16": torch.float16}
_WIDE = {"F32", "F64"}

_ALWAYS_MASKED = "sdpa_always_masked"


def _always_mask(*args: Any, **kwargs: Any) -> Any:
    return sdpa_mask(
        *args, **{**kwargs, "allow_is_bidirectional_skip": False, "allow_is_causal_skip": False}
    )


AttentionInterface.register(_ALWAYS_MASKED, sdpa_attention_forward)
AttentionMaskInterface.register(_ALWAYS_MASKED, _always_mask)


@contextmanager
def foreign_files(source: object) -> Iterator[None]:
    """Turn what libraries raise on a broken model directory into one `InputError`.

    Raises:
        InputError: the error's first line, with the directory it came from.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # The tokenizers library raises Exception itself; its subclasses that are not listed
        # are defects and pass.
        if not isinstance(error, _BROKEN_FILES) and type(error) is not Exception:
            raise
        first_line = (str(error).strip().splitlines() or [repr(error)])[0]
        if "trust_remote_code" in str(error):
            raise InputError(
                f"model {source}: its config.json asks for code of its own (auto_map)",
                "an architecture that transformers has: code in a model directory never runs here",
                "use a model of a known architecture, or save its weights as one",
            ) from error
        raise InputError(
            f"model {source}: {first_line}",
            "a complete model directory with config, weights and tokenizer",
            "make or copy the model again",
        ) from error


def load_config(directory: Path) -> Any:
    """The model's configuration.

    Raises:
        InputError: no configuration that transformers knows, or one with code of its own.
    """
    with foreign_files(directory):
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def load_tokenizer(directory: Path, lower_case: bool = False) -> Any:
    """The model's tokenizer; with `lower_case`, text is put in lower case before all else.

    sentence-transformers does the same with ``do_lower_case``, whatever the vocabulary's case.

    Raises:
        InputError: no tokenizer that transformers can read, or one that cannot be told to.
    """
    with foreign_files(directory):
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    if not lower_case or getattr(tokenizer, "do_lower_case", False):
        return tokenizer
    if not tokenizer.is_fast:
        raise InputError(
            f"model {directory}: do_lower_case with a tokenizer of Python code",
            "a tokenizer.json, which can be told to",
            "set do_lower_case in tokenizer_config.json, where that class reads it",
        )
    backend = tokenizer.backend_tokenizer
    first = normalizers.Lowercase()
    own = backend.normalizer
    backend.normalizer = first if own is None else normalizers.Sequence([first, own])
    return tokenizer


def stored_precision(directory: Path) -> torch.dtype:
    """The widest precision among a directory's weights, by the headers of its safetensors files.

    float32 where they are in another format. The config's word is not taken: some call weights
    bfloat16 that are float32.

    Raises:
        InputError: a broken file.
    """
    kinds: set[str] = set()
    with foreign_files(directory):
        for path in directory.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                kinds |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    found = {_HALF[kind] for kind in kinds if kind in _HALF}
    return found.pop() if len(found) == 1 and not kinds & _WIDE else torch.float32


def load_backbone(directory: Path, precision: torch.dtype = torch.float32) -> tuple[Any, list[str]]:
    """The model in `precision`, and the names of weights that are no part of it.

    Its attention builds a mask whether it needs one or not: to find out, transformers would have
    the host wait for the device in every forward.

    Raises:
        InputError: its files cannot be read, or lack some of its weights.
    """
    config = load_config(directory)
    _refuse_kind(config, directory)
    kind = _kind_of(config, directory)
    with foreign_files(directory), quiet_transformers():
        backbone, report = kind.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            dtype=precision,
            output_loading_info=True,
        )
    missing = sorted(
        key
        for key in report["missing_keys"]
        if not key.startswith("pooler.") and "position_ids" not in key
    )
    if missing:
        raise InputError(
            f"{directory}: weights without {missing[0]} and {len(missing) - 1} more",
            f"all of a {backbone.config.model_type} model",
            "copy the model again",
        )
    # A decoder would keep keys and values of every text for words that nobody asks it for.
    if getattr(backbone.config, "use_cache", False):
        backbone.config.use_cache = False
    if backbone.config._attn_implementation == "sdpa":
        backbone.set_attn_implementation(_ALWAYS_MASKED)
    return backbone, sorted(report["unexpected_keys"])


def random_backbone(config: Any, directory: Path) -> Any:
    """A model of a configuration with random weights in float32.

    Raises:
        InputError: a kind that encodes no text, named by `directory`.
    """
    _refuse_kind(config, directory)
    with foreign_files(directory), quiet_transformers():
        return _kind_of(config, directory).from_config(config, trust_remote_code=False).float()


def _refuse_kind(config: Any, directory: Path) -> None:
    """Refuse kinds that load and then cannot encode a text.

    Raises:
        InputError: a model of several modalities, or XMOD that is told no language.
    """
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise InputError(
            f"model {directory}: {config.model_type}, a model of several parts",
            "a model of texts alone, with one hidden_size",
            "save its text model as a directory of its own (gemma3 has gemma3_text)",
        )
    if config.model_type == "xmod" and config.default_language not in config.languages:
        raise InputError(
            f"model {directory}: xmod with default_language {config.default_language}",
            f"a language whose adapters encode all texts: {', '.join(config.languages)}",
            'write one into its config.json, such as "default_language": "en_XX"',
        )


def _kind_of(config: Any, directory: Path) -> Any:
    """What loads a text encoder: of models that translate, T5's kin have it by itself."""
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING and config.model_type in _WITH_DECODERS:
        return AutoModelForTextEncoding
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"model {directory}: {config.model_type}, an encoder with a decoder",
            "an encoder of text, or a model of T5's kin, whose encoder is taken",
            "use a model such as XLM-R, or mT5",
        )
    return AutoModel


@contextmanager
def quiet_transformers() -> Iterator[None]:
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


def num_positions(config: Any) -> int:
    """Tokens that a backbone has positions for; `NO_LIMIT` where it counts none.

    RoBERTa and its kin count from behind the padding token's number, so that XLM-R's 514 are 512.
    """
    most = getattr(config, "max_position_embeddings", None)
    # mDeBERTa keeps the number of its pretraining but has no table of positions.
    if not isinstance(most, int) or most < 1 or not getattr(config, "position_biased_input", True):
        return NO_LIMIT
    if config.model_type in _COUNTED_FROM_PADDING:
        most -= (getattr(config, "pad_token_id", None) or 0) + 1
    return most


def within_positions(settings: TextSettings, config: Any, source: object) -> TextSettings:
    """Text settings whose lengths the backbone has positions for; a longer one is cut, and said.

    Raises:
        InputError: a backbone with fewer positions than a text needs at least.
    """
    most = num_positions(config)
    cut: dict[str, Any] = {
        name: most for name in ("query_length", "document_length") if getattr(settings, name) > most
    }
    for name in cut:
        if getattr(settings, name) < NO_LIMIT:
            _say(
                f"{source}: {name} {getattr(settings, name)} is cut to {most}, the tokens that "
                "this model has positions for"
            )
    return replace(settings, **cut) if cut else settings


@functools.cache
def _say(note: str) -> None:
    """Print a note once per process, on the first rank."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {note}", file=sys.stderr, flush=True)
