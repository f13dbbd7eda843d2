"""Rows of `benchmarks/scale.py`: opening shards and the first batch, at growing numbers of samples.

One shard of 10,000 generated samples is built. Its tar is linked as often as needed, and each link
has an index of its own, which is what is per sample (32 bytes) in a rank of training; so 10^7
samples take 0.35 GB of disk. Each size is measured in fresh processes, as rank 5 of 64:

    python benchmarks/scale_stream.py ROOT ANSWER.json resident|traced|opening
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

SHARD, RANK, RANKS, NODE_RANKS, WORKERS = 10_000, 5, 64, 8, 4
#: Links that a file may have on every file system.
_LINKS = 30_000
#: Windows of the order that are drawn after the first batch, from everywhere in the epoch: more
#: shards than a process keeps mapped.
_WINDOWS = 600
MANY_SHARDS, FEW_SHARDS, SMALL = 100_000, 10_000, 20
Row = dict[str, Any]


def write_shards(folder: Path, num_shards: int, size: int = SHARD, own_index: bool = True) -> Path:
    """A folder of shards that are the same but for their names; returns its root."""
    from data_shards.build import BuildSettings, build
    from data_shards.format import Split, read_manifest, shard_name, write_manifest
    from data_shards.rows import BitextInput

    bitext = folder / "bitext.tsv"
    lines = (f"neno la {number} na jingine\tword {number} and another\n" for number in range(size))
    bitext.write_text("".join(lines), encoding="utf-8")
    inputs = (BitextInput(pair="sw-en", paths=(str(bitext),), format="tsv"),)
    root = folder / "shards"
    settings = BuildSettings(inputs=inputs, output=root, num_shards=1, dev_fraction=0.0)
    build(settings, progress=False)
    manifest = read_manifest(root)
    entry = manifest.pairs["sw-en"]
    (first,) = entry.splits["train"].shards
    shards = [replace(first, name=shard_name("sw-en", "train", n)) for n in range(num_shards)]
    origins = {suffix: root / name for suffix, name in _names(first.name).items()}
    for number, shard in enumerate(shards[1:], 1):
        for suffix, name in _names(shard.name).items():
            if number % _LINKS == 0 or (suffix == "index" and own_index):
                shutil.copyfile(origins[suffix], root / name)
                origins[suffix] = root / name
            else:
                os.link(origins[suffix], root / name)
    split = Split(first.num_pairs * num_shards, shards)
    pairs = {"sw-en": replace(entry, splits={**entry.splits, "train": split})}
    write_manifest(root, replace(manifest, pairs=pairs))
    return root


def _names(shard: str) -> dict[str, str]:
    from data_shards.format import index_name

    return {"tar": shard, "index": index_name(shard)}


def _tokenize(texts: Any) -> Any:
    import torch

    from distill.tokens import Tokens

    ids = torch.tensor([[len(text) + place for place in range(16)] for text in texts])
    mask = torch.ones_like(ids)
    return Tokens(ids, mask, mask.bool(), mask.bool())


def _memory_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def measure(root: Path, kind: str) -> dict[str, float]:
    """Opens a stream as a rank does, takes its first batch, and goes through the epoch.

    Args:
        kind: `resident`; `traced`, which counts what Python and numpy hold, and takes time; or
            `opening`, up to the first batch only.
    """
    import gc
    import tracemalloc

    # Modules count for no size; numpy loads this one late, for `unique`.
    import numpy.ma  # noqa: F401

    from distill.stream.bitext import BitextStream
    from distill.stream.shards import find_shards, require_files
    from distill.stream.sources import ShardCache

    if kind == "traced":
        tracemalloc.start()
    before = {field: _memory_bytes(field) for field in ("VmRSS", "RssAnon")}
    start = time.perf_counter()
    found = find_shards([str(root)], None, "train", ShardCache())
    listed = time.perf_counter() - start
    require_files(found, RANK % NODE_RANKS, NODE_RANKS)
    opened = time.perf_counter() - start
    stream = BitextStream(
        str(root),
        rank=RANK,
        world_size=RANKS,
        micro_batch=64,
        num_workers=0,
        endless=True,
        found=found,
        tokenize_source=_tokenize,
        tokenize_target=_tokenize,
    )
    batches = iter(stream)
    next(batches)
    first = time.perf_counter() - start
    answer = {"listed": listed, "opened": opened, "first": first}
    if kind == "opening":
        return answer
    order = stream.order
    for start_of in range(0, order.epoch_size, max(1, order.epoch_size // _WINDOWS)):
        order.take(0, start_of, start_of + 1)
    for _ in range(20):
        next(batches)
    gc.collect()
    if kind == "traced":
        return answer | {"own": tracemalloc.get_traced_memory()[0]}
    return answer | {field: _memory_bytes(field) - value for field, value in before.items()}


def _measured(
    folder: Path | None, num_shards: int, kinds: tuple[str, ...], **shape: Any
) -> dict[str, float]:
    """Figures of a number of shards, a fresh process for each kind; the best of their times."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root, answer = write_shards(Path(name), num_shards, **shape), Path(name) / "answer.json"
        found: dict[str, float] = {}
        for kind in kinds:
            command = [sys.executable, __file__, str(root), str(answer), kind]
            # Stamps of verified files are kept with the rest.
            subprocess.run(command, check=True, env={**os.environ, "XDG_CACHE_HOME": name})
            latest = json.loads(answer.read_text())
            if kind == "traced":
                found["own"] = latest["own"]
                continue
            times = {
                name: min(latest[name], found.get(name, latest[name]))
                for name in ("listed", "opened", "first")
            }
            found |= latest | times
    return found


def rows(sizes: list[int], quick: bool, folder: Path | None) -> list[Row]:
    """The table's rows: each size, what grows between them, and 10^8 pairs."""
    kinds = "resident", "opening", "opening", "opening", "traced"
    measured = {num: _measured(folder, num // SHARD, kinds) for num in sizes}
    table = []
    smallest, largest = min(sizes), max(sizes)
    for num, found in measured.items():
        case = f"{num:,} samples"
        base = measured[smallest]["first"]
        table += [
            _row(case, "s to first batch", found["first"], f"{smallest:,}", base, 3.0, True),
            _row(case, "MiB of a rank grown", found["VmRSS"] / 2**20, "anonymous",
                 found["RssAnon"] / 2**20, None),
        ]  # fmt: skip
    for less, more in pairwise(sizes):
        case, slopes = f"{less:,} to {more:,}", {}
        for field in ("VmRSS", "own"):
            slopes[field] = (measured[more][field] - measured[less][field]) / (more - less)
        table += [
            _row(case, "bytes a sample, shared included", slopes["VmRSS"], "at most", 64, 1.0),
            _row(case, "own bytes a sample, unmapped", slopes["own"], "at most", 1, 1.0),
        ]
    table += _extended(measured[smallest], measured[largest], largest - smallest)
    num = FEW_SHARDS if quick else MANY_SHARDS
    found = _measured(folder, num, ("opening", "opening"), size=SMALL, own_index=False)
    case = f"{num:,} shards"
    # Each rank looked at all of them twice, when it checked and when it built its stream.
    before = 2 * NODE_RANKS * num
    table += [
        _row(case, "s to read the manifest", found["listed"], "target", 10.0, 1.0),
        _row(
            case,
            "s to open, files of a node divided",
            found["opened"],
            "target",
            20.0,
            1.0,
        ),
        _row(case, "s to first batch", found["first"], "target", 60.0, 1.0),
        _row(case, "looks at files, a node of 8 ranks", num, "before", before, 1 / NODE_RANKS),
    ]
    return table


def _extended(less: dict[str, float], more: dict[str, float], grown: int) -> list[Row]:
    """What the slopes come to at 10^8 pairs, beside a node of 8 GPUs and 1 TB."""
    slope = {field: max(0.0, (more[field] - less[field]) / grown) for field in ("VmRSS", "own")}
    processes = NODE_RANKS * (1 + WORKERS)
    # Mapped pages are there once; what is own, in each rank and worker.
    node = (slope["VmRSS"] + processes * slope["own"]) * 1e8 / 1e9
    return [
        _row(
            "10^8 pairs, extended",
            "GB of a rank",
            slope["VmRSS"] * 1e8 / 1e9,
            "node, 1 TB",
            1000.0,
            0.1,
        ),
        _row(
            "10^8 pairs, extended",
            f"GB of a node's {processes} processes",
            node,
            "node, 1 TB",
            1000.0,
            0.1,
        ),
        _row(
            "10^8 pairs, extended", "GB of indexes on disk", 32e8 / 1e9, "node, 1 TB", 1000.0, None
        ),
    ]


def _row(
    case: str, metric: str, ours: float, peer: str, value: float, target: float | None,
    is_judged: bool = True,
) -> Row:  # fmt: skip
    """One row; the target is of the ratio."""
    ratio = ours / value if value else 0.0
    met = ratio <= target if target is not None and is_judged else None
    found = {"case": case, "metric": metric, "ours": round(ours, 4), "peer": peer}
    return found | {
        "peer_value": round(value, 4), "ratio": round(ratio, 4), "target": target, "met": met
    }  # fmt: skip


if __name__ == "__main__":
    result = measure(Path(sys.argv[1]), sys.argv[3])
    Path(sys.argv[2]).write_text(json.dumps(result))
