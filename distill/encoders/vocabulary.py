"""Prunes the vocabulary (`prune`): drops tokens that nobody uses, and their embeddings.

A sentence whose tokens are all kept is cut into the same pieces as before and gets the same
vectors, bit for bit: what is left out was no part of its best segmentation (Unigram), of its
longest matches (WordPiece) or of its merges (BPE, whose kept tokens keep the merges that lead to
them). Single characters stay, so that other words are spelled out instead of lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.text import TextEncoder
from distill.errors import InputError

#: Texts tokenised at a time.
_CHUNK = 1024
_TOKEN_ID = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def used_ids(text: TextEncoder, texts: Iterable[str]) -> set[int]:
    """Token ids that the tokenizer makes of `texts` and of the prompts, special tokens included."""
    settings = text.settings
    used: set[int] = set()
    chunk: list[str] = [settings.query_prompt, settings.document_prompt]
    for sentence in texts:
        chunk.append(sentence)
        # With a prompt in front, the first word may be cut otherwise.
        chunk += [p + sentence for p in (settings.query_prompt, settings.document_prompt) if p]
        if len(chunk) >= _CHUNK:
            used.update(*text.tokenizer(chunk)["input_ids"])
            chunk = []
    if chunk:
        used.update(*text.tokenizer(chunk)["input_ids"])
    return used


def prune(
    encoder: LateInteractionEncoder, text: TextEncoder, used: set[int]
) -> tuple[TextEncoder, int]:
    """Drop every token but those `used`, special and added tokens, the skip list and characters.

    The encoder's embedding matrix is replaced in place; before an optimizer is built.

    Returns:
        (text encoder with the small tokenizer, number of tokens dropped).

    Raises:
        InputError: the tokenizer's kind is not known here, or nothing can be dropped.
    """
    tokenizer = text.tokenizer
    if not tokenizer.is_fast:
        raise InputError(
            f"student.prune_vocabulary: {type(tokenizer).__name__} is Python code",
            "a tokenizer.json to leave tokens out of",
            "set student.prune_vocabulary=false",
        )
    record = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = tokenizer.get_vocab()
    keep = set(used) | set(tokenizer.all_special_ids)
    keep |= {entry["id"] for entry in record["added_tokens"]}
    keep |= {vocabulary[word] for word in text.settings.skiplist_words if word in vocabulary}
    keep |= {number for piece, number in vocabulary.items() if _is_character(piece)}
    _shrink_model(record["model"], keep, vocabulary)
    old_ids = sorted(keep & set(vocabulary.values()))
    dropped = len(vocabulary) - len(old_ids)
    if not dropped:
        raise InputError(
            "student.prune_vocabulary: the shards use every token",
            "tokens that no sentence has",
            "set student.prune_vocabulary=false",
        )
    new_id = {old: new for new, old in enumerate(old_ids)}
    if new_id[tokenizer.pad_token_id] != tokenizer.pad_token_id:
        raise InputError(
            f"student.prune_vocabulary: padding token {tokenizer.pad_token_id} would move",
            "a padding token among the first, since positions are counted from it",
            "set student.prune_vocabulary=false",
        )
    small = _rebuilt(tokenizer, record, new_id)
    for piece, number in vocabulary.items():
        if number in new_id and small.convert_tokens_to_ids(piece) != new_id[number]:
            raise RuntimeError(f"token {piece!r} moved while the vocabulary was pruned")
    _shrink_embeddings(encoder.backbone, old_ids, new_id)
    return TextEncoder(small, text.settings), dropped


def _is_character(piece: str) -> bool:
    return len(piece.removeprefix("##").removeprefix("▁")) <= 1


def _shrink_model(model: dict[str, Any], keep: set[int], vocabulary: dict[str, int]) -> None:
    """Remove from the tokenizer's model what is not in `keep`; BPE adds what its merges need."""
    kind = model.get("type")
    if kind == "Unigram":
        keep.add(model["unk_id"])
        new_unk = sum(number < model["unk_id"] for number in keep)
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in keep]
        model["unk_id"] = new_unk
        return
    if kind == "BPE":
        model["merges"] = _kept_merges(model["merges"], keep, vocabulary)
    elif kind not in ("WordPiece", "WordLevel"):
        raise InputError(
            f"student.prune_vocabulary: a tokenizer of kind {kind}",
            "Unigram, BPE, WordPiece or WordLevel",
            "set student.prune_vocabulary=false",
        )
    if model.get("unk_token") in vocabulary:
        keep.add(vocabulary[model["unk_token"]])
    kept = sorted((i, piece) for piece, i in model["vocab"].items() if i in keep)
    model["vocab"] = {piece: number for number, (_, piece) in enumerate(kept)}


def _kept_merges(merges: list[Any], keep: set[int], vocabulary: dict[str, int]) -> list[Any]:
    """The merges that lead to kept tokens; the tokens on the way are kept, too."""
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else merge for merge in merges]
    by_result: dict[str, list[tuple[str, str]]] = {}
    for left, right in pairs:
        by_result.setdefault(left + right, []).append((left, right))
    pieces = {number: piece for piece, number in vocabulary.items()}
    waiting = [pieces[number] for number in keep if number in pieces]
    while waiting:
        for left, right in by_result.get(waiting.pop(), []):
            for part in (left, right):
                if vocabulary[part] not in keep:
                    keep.add(vocabulary[part])
                    waiting.append(part)
    return [
        merge
        for merge, (left, right) in zip(merges, pairs, strict=True)
        if vocabulary.get(left + right) in keep
    ]


def _rebuilt(tokenizer: Any, record: dict[str, Any], new_id: dict[int, int]) -> Any:
    for entry in record["added_tokens"]:
        entry["id"] = new_id[entry["id"]]
    processor = record.get("post_processor") or {}
    for part in processor.get("processors", [processor]):
        for entry in (part.get("special_tokens") or {}).values():
            entry["ids"] = [new_id[number] for number in entry["ids"]]
        for side in ("sep", "cls"):
            if isinstance(part.get(side), list):
                part[side][1] = new_id[part[side][1]]
    record["truncation"] = record["padding"] = None
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(record)),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        **tokenizer.special_tokens_map,
    )


def _shrink_embeddings(backbone: Any, old_ids: list[int], new_id: dict[int, int]) -> None:
    table = backbone.get_input_embeddings()
    rows = table.weight.detach()[torch.tensor(old_ids)]
    small = nn.Embedding(len(rows), rows.shape[1], padding_idx=table.padding_idx)
    with torch.no_grad():
        small.weight.copy_(rows)
    small.weight.requires_grad_(table.weight.requires_grad)
    backbone.set_input_embeddings(small)
    backbone.config.vocab_size = len(rows)
    for name in _TOKEN_ID:
        old = getattr(backbone.config, name, None)
        if old in new_id:
            setattr(backbone.config, name, new_id[old])
