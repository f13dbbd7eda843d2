"""Rate and resume of the stream of bitext, beside other readers of the same data.

The same generated pairs, tokenizer, micro-batch and number of worker processes; every reader
shuffles as its users do. Peers that are not installed are left out.

    python benchmarks/stream.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from data_shards.build import BuildSettings, build
from data_shards.rows import BitextInput
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder
from distill.stream.bitext import BitextStream
from distill.stream.stored_tokens import store_tokens

MICRO_BATCH = 32
NUM_WORKERS = 1
SHUFFLE_BUFFER = 4096
#: Yields micro-batches from the start of an epoch, or from a number of samples on.
Reader = Callable[[int], Iterator[Any]]


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

    def read(start: int) -> Iterator[Any]:
        stream = BitextStream(
            root,
            micro_batch=MICRO_BATCH,
            num_workers=NUM_WORKERS,
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

    def read(start: int) -> Iterator[Any]:
        shards = sorted(str(path) for path in (root / "sw-en").glob("train-*.tar"))
        data = wds.WebDataset(shards, shardshuffle=len(shards), seed=0)
        data = data.shuffle(SHUFFLE_BUFFER).decode().map(sides)
        data = data.batched(MICRO_BATCH, collation_fn=Collate(text))
        loader = wds.WebLoader(data, batch_size=None, num_workers=NUM_WORKERS)
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

    def read(start: int) -> Iterator[Any]:
        files = sorted(str(path) for path in folder.glob("*.parquet"))
        data = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        data = data.shuffle(seed=0, buffer_size=SHUFFLE_BUFFER)
        if start:
            data = data.skip(start)
        loader = DataLoader(data, batch_size=MICRO_BATCH, num_workers=NUM_WORKERS, collate_fn=both)
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

    def read(start: int) -> Iterator[Any]:
        clean_stale_shared_memory()
        data = StreamingDataset(
            local=str(folder), shuffle=True, shuffle_seed=0, batch_size=MICRO_BATCH
        )
        if start:
            state = data.state_dict(start, False)
            data.load_state_dict(state | {"sample_in_epoch": start, "epoch": 0})
        loader = DataLoader(data, batch_size=MICRO_BATCH, num_workers=NUM_WORKERS, collate_fn=both)
        return iter(loader)

    return read


def rate(reader: Reader, num_batches: int) -> float:
    """Pairs per second once the first batch is there."""
    batches = reader(0)
    next(batches)
    start = time.perf_counter()
    read = sum(1 for _ in islice(batches, num_batches))
    return read * MICRO_BATCH / (time.perf_counter() - start)


def first_batch_seconds(reader: Reader, position: int) -> float:
    """From nothing open to the first batch."""
    start = time.perf_counter()
    next(reader(position))
    return time.perf_counter() - start


def wait_fraction(root: Path, text: TextEncoder, step_seconds: float, num_steps: int) -> float:
    """Share of a training loop's time that is spent in waiting for data."""
    stream = BitextStream(
        root,
        micro_batch=MICRO_BATCH,
        num_workers=NUM_WORKERS,
        tokenize_source=text.queries,
        tokenize_target=text.queries,
    )
    matrix = torch.ones(512, 512)
    batches = iter(stream)
    next(batches)
    stream.seconds_waited = 0.0
    start = time.perf_counter()
    for _ in range(num_steps):
        next(batches)
        until = time.perf_counter() + step_seconds
        while time.perf_counter() < until:
            torch.mm(matrix, matrix)
    return stream.seconds_waited / (time.perf_counter() - start)


Row = dict[str, Any]


def row(case: str, metric: str, value: float, peer: str, other: float, target: str) -> Row:
    """One row of results; `target` is such as "ratio >= 1", judged here."""
    ratio = value / other
    bound = float(target.split()[-1])
    judged = ratio if target.startswith("ratio") else value
    met = judged >= bound if ">=" in target else judged <= bound
    return {
        "case": case,
        "metric": metric,
        "ours": round(value, 4),
        "peer": peer,
        "peer_value": round(other, 4),
        "ratio": round(ratio, 3),
        "target": target,
        "met": met,
    }


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


def measure(quick: bool) -> list[Row]:
    """All rows."""
    num_pairs, num_batches, repeats = (40_000, 400, 3) if quick else (200_000, 1500, 5)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "shards"
        pairs = write_bitext(folder / "bitext.tsv", num_pairs)
        item = BitextInput(pair="sw-en", paths=(str(folder / "bitext.tsv"),), format="tsv")
        settings = BuildSettings(inputs=(item,), output=root, num_shards=8, dev_fraction=0.0)
        build(settings, progress=False)
        text = make_text_encoder(side for pair in pairs[:20_000] for side in pair)
        others = peers(folder, root, text, pairs)
        unsorted = ours(root, text, bucket_window=0)
        # Interleaved, so that what disturbs the machine disturbs all.
        rates: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
        for _ in range(repeats):
            for name, reader in {"ours": unsorted, **others}.items():
                rates[name].append(rate(reader, num_batches))
        median = {name: statistics.median(values) for name, values in rates.items()}
        for name in others:
            rows.append(row("read", "pairs/s", median["ours"], name, median[name], "ratio >= 1.0"))
        store_tokens(root, side="source", tokenize=text.queries)
        store_tokens(root, side="target", tokenize=text.queries)
        stored = rate(ours(root, text, bucket_window=0, stored_tokens=True), num_batches)
        rows.append(
            row("stored tokens", "pairs/s", stored, "ours live", median["ours"], "ratio >= 1.0")
        )
        bucketed = ours(root, text)
        cold = statistics.median(first_batch_seconds(bucketed, 0) for _ in range(repeats))
        for share in (0.1, 0.9):
            position = int(share * num_pairs) // MICRO_BATCH * MICRO_BATCH
            case = f"resume at {share:.0%}"
            seconds = statistics.median(
                first_batch_seconds(bucketed, position) for _ in range(repeats)
            )
            rows.append(row(case, "s to first batch", seconds, "ours cold", cold, "ratio <= 1.5"))
            for name, reader in others.items():
                other = first_batch_seconds(reader, position)
                rows.append(row(case, "s to first batch", seconds, name, other, "ratio <= 1.0"))
        fraction = wait_fraction(root, text, 0.25, 40 if quick else 120)
        rows.append(row("steps of 0.25 s", "share waiting", fraction, "step", 1.0, "value <= 0.01"))
    return rows


def main() -> None:
    """Measure, print a table, and write the rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pairs and repetitions")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    rows = measure(arguments.quick)
    for entry in rows:
        print(
            f"{entry['case']:16} {entry['metric']:17} ours {entry['ours']:>10}  "
            f"{entry['peer']:19} {entry['peer_value']:>10}  ratio {entry['ratio']:>8}  "
            f"{entry['target']:14} {'met' if entry['met'] else 'MISSED'}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
