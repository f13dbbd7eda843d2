"""Writes the exported directory (`write_directory`): one set of weights, three layouts.

The weights lie at the root under the names that Stanford's ``HF_ColBERT`` gives them (backbone
with its prefix, ``linear.weight`` next to it); transformers, PyLate and sentence-transformers take
the prefix off. ``1_Dense`` holds the projection once more, as PyLate and sentence-transformers
look for it there.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from distill.encoders.directory import save_encoder
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.layouts import STANFORD_FILE
from distill.encoders.sums import write_sums
from distill.encoders.text import TextEncoder

#: What transformers notes about this load of the tokenizer, and nobody else's.
_OWN_KEYS = (
    *("backend", "is_local", "local_files_only", "max_length", "stride"),
    *("truncation_strategy", "truncation_side", "pad_to_multiple_of", "pad_token_type_id"),
)


def write_directory(
    output: Path, encoder: LateInteractionEncoder, text: TextEncoder, name: str
) -> None:
    """Write the model in all layouts.

    Args:
        output: made where missing.
        name: of the training run, noted in Stanford's metadata.
    """
    # Lengths are the readers' settings; what tokenising here has set must not travel along.
    text.tokenizer.backend_tokenizer.no_truncation()
    text.tokenizer.backend_tokenizer.no_padding()
    save_encoder(output, encoder, text)
    _write_weights(output, encoder)
    config = _read(output / "config.json")
    config["architectures"] = ["HF_ColBERT"]
    _write(output / "config.json", config)
    _write(output / STANFORD_FILE, stanford_metadata(encoder, text, name))
    tokenizer = _read(output / "tokenizer_config.json")
    # The name of the class before transformers 5, which newer versions still know.
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in _OWN_KEYS:
        tokenizer.pop(key, None)
    _write(output / "tokenizer_config.json", tokenizer)
    write_sums(output)


def stanford_metadata(
    encoder: LateInteractionEncoder, text: TextEncoder, name: str
) -> dict[str, Any]:
    """What ``artifact.metadata`` says: Stanford ColBERT's configuration keys."""
    settings = text.settings
    return {
        "query_token_id": settings.query_prefix,
        "doc_token_id": settings.document_prefix,
        "query_token": settings.query_prefix.strip(),
        "doc_token": settings.document_prefix.strip(),
        "query_maxlen": settings.query_length,
        "doc_maxlen": settings.document_length,
        "dim": encoder.embedding_dimension,
        "attend_to_mask_tokens": settings.attend_to_expansion_tokens,
        "mask_punctuation": set(settings.skiplist_words) >= set(string.punctuation),
        "similarity": "cosine",
        "model": encoder.backbone.config.model_type,  # type: ignore[union-attr]
        "experiment": name,
    }


def _write_weights(output: Path, encoder: LateInteractionEncoder) -> None:
    prefix = encoder.backbone.base_model_prefix
    state: dict[str, torch.Tensor] = {}
    for shard in sorted(output.glob("model*.safetensors")):
        state.update(load_file(shard))
        shard.unlink()
    (output / "model.safetensors.index.json").unlink(missing_ok=True)
    named = {f"{prefix}.{key}": value for key, value in state.items()}
    named["linear.weight"] = encoder.projection.weight.detach().float().cpu().contiguous()
    save_file(named, output / "model.safetensors", metadata={"format": "pt"})


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
