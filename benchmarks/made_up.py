"""Models with random weights, and sentences of made-up words."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill.encoders.directory import load_encoder, save_encoder  # noqa: E402
from distill.encoders.settings import TextSettings  # noqa: E402

#: Words that the made-up sentences are drawn from, one token each.
NUM_WORDS = 5000


def write_backbone(directory: Path, hidden: int, layers: int, words: int) -> None:
    """A BERT with random weights over a vocabulary of made-up words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "document"]
    names = special + [f"w{number}" for number in range(words)]
    tokenizer = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    ).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        intermediate_size=4 * hidden,
    )
    BertModel(config).save_pretrained(directory)


def write_teacher(backbone: Path, directory: Path, length: int) -> Path:
    """A late-interaction encoder of a backbone in `directory`; texts are cut at `length` tokens."""
    settings = TextSettings(query_length=length, document_length=length, skiplist_words=())
    encoder, text = load_encoder(str(backbone), settings=settings)
    save_encoder(directory, encoder, text)
    return directory


def words_of(backbone: Path) -> list[str]:
    """Words of letters and digits that the backbone's tokenizer keeps whole, `NUM_WORDS` at most.

    Args:
        backbone: model directory.
    """
    tokenizer = AutoTokenizer.from_pretrained(backbone, trust_remote_code=False)
    words = []
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = token.lstrip("▁")
        if word.isalnum() and tokenizer(word, add_special_tokens=False)["input_ids"] == [number]:
            words.append(word)
        if len(words) == NUM_WORDS:
            break
    return words


def sentence_pairs(words: Sequence[str], lengths: Sequence[int]) -> list[tuple[str, str]]:
    """A pair of random sentences of each length, in words; the same ones every time."""
    draw = random.Random(0)
    return [
        (" ".join(draw.choices(words, k=length)), " ".join(draw.choices(words, k=length)))
        for length in lengths
    ]


def make_pairs(backbone: Path, num_pairs: int, length: int) -> list[tuple[str, str]]:
    """Sentences of words that are one token each, as many as fit: no contender gets less text."""
    room = length - 3  # First and last special token, and a marker.
    return sentence_pairs(words_of(backbone), [room] * num_pairs)


def build_shards(pairs: Sequence[tuple[str, str]], folder: Path) -> Path:
    """Shards of one language pair from (source, English), by the command that users call."""
    bitext, shards = folder / "bitext.tsv", folder / "shards"
    bitext.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), "utf-8")
    subprocess.run(
        [
            *(sys.executable, "-m", "data_shards", "build", str(shards), "--quiet"),
            *("--pair", f"sw-en={bitext}", "--num-shards", "1", "--overwrite"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return shards
