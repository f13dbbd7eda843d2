"""Loads an encoder directory in any of the field's layouts (`load_any`).

- late interaction, in the layouts that the encoders' room reads
- sentence-transformers' SentenceTransformer: one pooled vector per text, which MaxSim scores too
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from distill.encoders.directory import encoder_hash, load_encoder
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder
from distill.errors import InputError
from distill.tokens import Tokens


def load_any(path: Path) -> tuple[nn.Module, TextEncoder, str]:
    """Load an encoder and its identity.

    Returns:
        (module called with input_ids and attention_mask, its tokeniser, hash of the files). A bare
        backbone gets the encoders' room's fresh projection.

    Raises:
        InputError: the directory has no known layout, or lacks a file of it.
    """
    modules = _read_json(path / "modules.json") if (path / "modules.json").is_file() else []
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    if "Pooling" in kinds:
        pooling = path / str(modules[kinds.index("Pooling")]["path"]) / "config.json"
        pooled, pooled_text = _load_pooled(path, pooling)
        return pooled, pooled_text, encoder_hash(path)
    model, text = load_encoder(str(path))
    return model, text, encoder_hash(path)


class PooledEncoder(nn.Module):
    """A single-vector encoder in late interaction's terms: its vector stands at the first token.

    Args:
        backbone: a transformers encoder.
        mode: ``mean`` over attended tokens, ``cls`` or ``max``.
    """

    def __init__(self, backbone: nn.Module, mode: str) -> None:
        super().__init__()
        self.backbone, self.mode = backbone, mode

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, N, D): the text's unit vector at every token; only the first one scores."""
        hidden_BNH = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state.float()
        mask_BN1 = attention_mask.unsqueeze(-1).to(hidden_BNH.dtype)
        if self.mode == "cls":
            pooled_BH = hidden_BNH[:, 0]
        elif self.mode == "max":
            pooled_BH = hidden_BNH.masked_fill(mask_BN1 == 0, -torch.inf).amax(dim=1)
        else:
            pooled_BH = (hidden_BNH * mask_BN1).sum(dim=1) / mask_BN1.sum(dim=1).clamp(min=1)
        unit_BH = functional.normalize(pooled_BH, dim=-1)
        return unit_BH.unsqueeze(1).expand(-1, hidden_BNH.shape[1], -1)


class PooledTextEncoder(TextEncoder):
    """Tokenises with prompts in front; one token of each text scores."""

    def __init__(self, tokenizer: Any, settings: TextSettings, prompts: dict[str, str]) -> None:
        super().__init__(tokenizer, settings)
        self.prompts = prompts

    def queries(self, texts: Sequence[str]) -> Tokens:
        prompt = self.prompts.get("query") or ""
        return _first_scores(super().queries([prompt + text for text in texts]))

    def documents(self, texts: Sequence[str]) -> Tokens:
        prompt = self.prompts.get("document") or self.prompts.get("passage") or ""
        return _first_scores(super().documents([prompt + text for text in texts]))


def _first_scores(tokens: Tokens) -> Tokens:
    scoring = torch.zeros_like(tokens.scoring_mask)
    scoring[:, 0] = True
    return Tokens(tokens.input_ids, tokens.attention_mask, scoring, tokens.content_mask)


def _load_pooled(path: Path, pooling: Path) -> tuple[PooledEncoder, PooledTextEncoder]:
    """A SentenceTransformer: transformer, pooling, optionally normalisation (cosine is used)."""
    record = _read_json(pooling)
    mode = record.get("pooling_mode") or next(
        (
            name
            for name, key in (("cls", "cls_token"), ("max", "max_tokens"), ("mean", "mean_tokens"))
            if record.get(f"pooling_mode_{key}")
        ),
        None,
    )
    if mode not in ("mean", "cls", "max"):
        raise InputError(f"{pooling}: pooling {mode!r}", "mean, cls or max", "use another model")
    length = 512
    if (path / "sentence_bert_config.json").is_file():
        length = int(_read_json(path / "sentence_bert_config.json").get("max_seq_length") or 512)
    settings = TextSettings(
        query_prefix="",
        document_prefix="",
        query_length=length,
        document_length=length,
        skiplist_words=(),
    )
    stored = path / "config_sentence_transformers.json"
    prompts = (_read_json(stored).get("prompts") or {}) if stored.is_file() else {}
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    backbone = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    return PooledEncoder(backbone, mode), PooledTextEncoder(tokenizer, settings, prompts)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: {error}", "a JSON file", "copy the model again") from error
