"""Readers of bitext that `stream.py` compares: this project's, and those of other projects.

All give the same tokens of the same generated pairs; every one shuffles as its users do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder
from distill.stream.bitext import BitextStream

MICRO_BATCH = 32
SHUFFLE_BUFFER = 4096
#: (samples to skip of the epoch, worker processes) -> micro-batches.
Reader = Callable[[int, int], Iterator[Any]]


def write_bitext(path: Path, num_pairs: int) -> list[tuple[str, str]]:
    """Invented sentences of 3 to 30 words, Zipf-distributed; returns them, too."""
    draw = random.Random(0)
    syllables = [first + second for first in "bdfghjklmnprstvwz" for second in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    pairs = []
    drawn = iter(draw.choices(words, weights, k=num_pairs * 34))
    for _ in range(num_pairs):
        length = draw.randint(3, 15)
        sides = (" ".join(islice(drawn, length + draw.randint(0, 2))) for _ in range(2))
        pairs.append(tuple(sides))
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), "utf-8")
    return pairs


def make_text_encoder(texts: Iterator[str]) -> TextEncoder:
    """A unigram tokenizer trained on the data, as multilingual models have them."""
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=8000, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    names = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), special, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    settings = TextSettings(query_prefix="", document_prefix="", do_query_expansion=False)
    return TextEncoder(fast, settings)


class Collate:
    """What peers do with a list of (source, target): the same tokens as ours."""

    def __init__(self, text: TextEncoder) -> None:
        self.text = text

    def __call__(self, pairs: list[tuple[str, str]]) -> tuple[Any, Any, list[str], list[str]]:
        sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return self.text.queries(sources), self.text.queries(targets), sources, targets


def ours(root: Path, text: TextEncoder, **options: Any) -> Reader:
    """This project's stream."""

    def read(start: int, num_workers: int) -> Iterator[Any]:
        stream = BitextStream(
            root,
            micro_batch=MICRO_BATCH,
            num_workers=num_workers,
            tokenize_source=text.queries,
            tokenize_target=text.queries,
            **options,
        )
        stream.load_state_dict(stream.state_dict() | {"position": start})
        return iter(stream)

    return read


def webdataset(root: Path, text: TextEncoder) -> Reader:
    """Plain WebDataset over the same tars; to resume it can only read and throw away."""
    import webdataset as wds

    def sides(sample: dict[str, Any]) -> tuple[str, str]:
        return sample["json"]["source"], sample["json"]["target"]

    def read(start: int, num_workers: int) -> Iterator[Any]:
        shards = sorted(str(path) for path in (root / "sw-en").glob("train-*.tar"))
        data = wds.WebDataset(shards, shardshuffle=len(shards), seed=0)
        data = data.shuffle(SHUFFLE_BUFFER).decode().map(sides)
        data = data.batched(MICRO_BATCH, collation_fn=Collate(text))
        loader = wds.WebLoader(data, batch_size=None, num_workers=num_workers)
        return islice(iter(loader), start // MICRO_BATCH, None)

    return read


def hugging_face(folder: Path, text: TextEncoder, pairs: list[tuple[str, str]]) -> Reader:
    """An `IterableDataset` over parquet files; its state skips to a row."""
    import datasets

    datasets.disable_progress_bars()
    size = -(-len(pairs) // 8)
    for number in range(8):
        part = pairs[number * size : (number + 1) * size]
        columns = {"source": [pair[0] for pair in part], "target": [pair[1] for pair in part]}
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{number}.parquet")
    collate = Collate(text)

    def both(records: list[dict[str, str]]) -> Any:
        return collate([(record["source"], record["target"]) for record in records])

    def read(start: int, num_workers: int) -> Iterator[Any]:
        files = sorted(str(path) for path in folder.glob("*.parquet"))
        data = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        data = data.shuffle(seed=0, buffer_size=SHUFFLE_BUFFER)
        if start:
            data = data.skip(start)
        loader = DataLoader(data, batch_size=MICRO_BATCH, num_workers=num_workers, collate_fn=both)
        return iter(loader)

    return read


def mosaic(folder: Path, text: TextEncoder, pairs: list[tuple[str, str]]) -> Reader:
    """MosaicML Streaming over MDS shards; resumes by its own state."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    columns = {"source": "str", "target": "str"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=8 << 20) as writer:
        for source, target in pairs:
            writer.write({"source": source, "target": target})
    collate = Collate(text)

    def both(records: list[dict[str, str]]) -> Any:
        return collate([(record["source"], record["target"]) for record in records])

    def read(start: int, num_workers: int) -> Iterator[Any]:
        clean_stale_shared_memory()
        data = StreamingDataset(
            local=str(folder), shuffle=True, shuffle_seed=0, batch_size=MICRO_BATCH
        )
        if start:
            state = data.state_dict(start, False)
            data.load_state_dict(state | {"sample_in_epoch": start, "epoch": 0})
        loader = DataLoader(data, batch_size=MICRO_BATCH, num_workers=num_workers, collate_fn=both)
        return iter(loader)

    return read


def peers(
    folder: Path, root: Path, text: TextEncoder, pairs: list[tuple[str, str]]
) -> dict[str, Reader]:
    """Readers of all peers that are installed."""
    makers: dict[str, Callable[[], Reader]] = {
        "webdataset": lambda: webdataset(root, text),
        "hf IterableDataset": lambda: hugging_face(folder / "hf", text, pairs),
        "mosaicml streaming": lambda: mosaic(folder / "mds", text, pairs),
    }
    (folder / "hf").mkdir()
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name}: not installed ({error.name})")
    return found
