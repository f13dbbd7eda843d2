"""Rows of `benchmarks/scale.py`: the teacher's cache at growing numbers of sentences.

Sentences are generated and their vectors come from a hash, so what is measured is the cache. Each
size is measured in a process of its own:

    python benchmarks/scale_cache.py FOLDER NUM ANSWER.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DIMENSION = 128
#: Tokens of a sentence, 4 to 28, 16 in the mean; with one marker.
_LENGTHS = 25
_MICRO_BATCH, _NUM_BATCHES = 64, 200
#: Seconds of a step of the demo on two cores.
STEP_SECONDS = 1.0


def sentence(number: int) -> str:
    """The generated sentence with this number."""
    return f"sentence {number}"


def num_tokens(number: int) -> int:
    """Its tokens."""
    return 4 + number * 2654435761 % 2**32 % _LENGTHS


def _side() -> Any:
    import torch

    from distill.embedding.fixed_shapes import TeacherSide
    from distill.tokens import Tokens

    vectors = torch.nn.functional.normalize(torch.randn(1 << 12, DIMENSION), dim=1)

    def tokenize(texts: Any) -> Tokens:
        numbers = torch.tensor([int(text.rpartition(" ")[2] or 0) for text in texts])
        lengths = torch.tensor([num_tokens(int(number)) for number in numbers])
        places = torch.arange(int(lengths.max()))
        mask = places < lengths.unsqueeze(1)
        ids = (numbers.unsqueeze(1) * 31 + places) % len(vectors) * mask
        return Tokens(ids, mask.long(), mask, mask)

    return TeacherSide(lambda tokens: vectors[tokens.input_ids], tokenize, 4 + _LENGTHS, 0)


def measure(folder: Path, num: int) -> dict[str, float]:
    """Fill a cache with `num` sentences, open it anew and look batches up."""
    import numpy as np

    from distill.embedding.cache_filling import fill_ahead
    from distill.embedding.teacher_cache import TeacherCache
    from distill.survival.memory import resident_mib

    side = _side()
    numbers: Iterator[str] = (sentence(number) for number in range(num))
    start = time.perf_counter()
    cache = TeacherCache.open(folder, "scale", side, "cpu")
    fill_ahead([cache], numbers, num, folder)
    filled = time.perf_counter() - start
    del cache
    before = resident_mib()
    start = time.perf_counter()
    cache = TeacherCache.open(folder, "scale", side, "cpu")
    opening = time.perf_counter() - start
    drawn = np.random.default_rng(0).integers(num, size=(_NUM_BATCHES, _MICRO_BATCH))
    batches = [[sentence(int(number)) for number in batch] for batch in drawn]
    tokens = [side.tokenize(batch) for batch in batches]
    start = time.perf_counter()
    assert not cache.lacking(batches[0])
    cache.look_up(batches[0], tokens[0])
    first = opening + time.perf_counter() - start
    start = time.perf_counter()
    for batch, its_tokens in zip(batches[1:], tokens[1:], strict=True):
        assert not cache.lacking(batch)
        cache.look_up(batch, its_tokens)
    looked_up = (time.perf_counter() - start) / (_NUM_BATCHES - 1)
    stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {
        "tokens": sum(map(num_tokens, range(num))) / num,
        "fill": filled / num * 1e6,
        "first": first,
        "look up": looked_up,
        "disk": stored / num,
        # Mapped pages are in it: of the index, those that were searched.
        "memory": (resident_mib() - before) * 2**20 / num,
        "own": private_growth(cache, batches) / num,
    }


def private_growth(cache: Any, batches: list[list[str]]) -> float:
    """Bytes that Python and numpy hold more after all batches were looked up than before."""
    import gc
    import tracemalloc

    gc.collect()
    tracemalloc.start()
    for batch in batches:
        cache.padded(batch)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return float(held)


def rows(measured: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
    """The table's rows: figures of each size, and what 10^8 sentences would take."""
    table = []
    smallest = min(measured)
    for num, found in measured.items():
        limit = 2 * DIMENSION * found["tokens"] + 16
        ratio = found["first"] / measured[smallest]["first"]
        figures = [
            ("bytes on disk a sentence", found["disk"], limit + 1, "2 D a token + 16 + files"),
            ("resident bytes a sentence", found["memory"], 64, "mapped and shared ones included"),
            ("own bytes a sentence", found["own"], 1, "nothing but mapped files"),
            ("s to first batch", found["first"], 3 * measured[smallest]["first"], f"{ratio:.1f} x"),
            ("s a million to fill", found["fill"], None, "without a teacher's forwards"),
            ("s a million to look up", found["look up"] / _MICRO_BATCH * 1e6, None, ""),
            ("share of a step of 1 s", found["look up"] / STEP_SECONDS, 0.05, ""),
        ]
        for metric, ours, target, note in figures:
            # Of few sentences, what the first look-up takes by itself is more.
            judged = target is not None and not (
                metric.split()[0] in ("resident", "own") and num < 10**5
            )
            table.append(
                {"case": f"cache of {num:,}", "metric": metric, "ours": round(ours, 4),
                 "target": target, "note": note, "met": ours <= target if judged else None}
            )  # fmt: skip
    largest = measured[max(measured)]
    for metric, ours, has in [
        ("TB on disk at 10^8", largest["disk"] * 1e8 / 1e12, "a node's NVMe: 10 or more"),
        ("hours of one core to fill 10^8", largest["fill"] * 100 / 3600, "64 ranks side by side"),
        ("GB of index at 10^8, shared", 16 * 1e8 / 1e9, "a node of 8 GPUs: 1,000"),
    ]:
        table.append(
            {"case": "extended", "metric": metric, "ours": round(ours, 3), "target": None,
             "note": has, "met": None}
        )  # fmt: skip
    return table


if __name__ == "__main__":
    answer = measure(Path(sys.argv[1]), int(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(answer))
