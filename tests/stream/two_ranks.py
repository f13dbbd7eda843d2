"""What each of two ranks does in `test_two_ranks`; started by torch's launcher.

Arguments: folder for the results; then NAME=ROOTS=PAIRS for every case.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from conftest import CharacterTokens

from distill.distributed import collectives
from distill.errors import InputError
from distill.stream.bitext import BitextStream


def read_epoch(root: str, pairs: list[str]) -> dict[str, object]:
    """Read one epoch with a collective in every step, as training does."""
    tokens = CharacterTokens()
    result: dict[str, object] = {"keys": [], "steps": 0, "error": "", "raised": False}
    keys: list[str] = []
    start = time.monotonic()
    try:
        stream = BitextStream(
            root,
            pairs=pairs,
            micro_batch=4,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
            tokenize_source=tokens,
            tokenize_target=tokens,
            num_workers=1,
            max_bad_fraction=0.02,
        )
        batches = iter(stream)
        while True:
            batch, error = stream.take(batches)
            if collectives.any_rank(error is not None):
                result["raised"] = error is not None
                result["error"] = str(error or "another rank met an error")
                break
            if batch is None:
                break
            keys += batch.keys[: len(batch) - batch.num_filled]
            result["steps"] = int(str(result["steps"])) + 1
    except InputError as error:
        result["error"], result["raised"] = str(error), True
    collectives.barrier()
    return result | {"keys": keys, "seconds": time.monotonic() - start}


def main() -> None:
    """Run all cases and leave ``rank-N.json``."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    results = {}
    for case in sys.argv[2:]:
        name, root, pairs = case.split("=")
        results[name] = read_epoch(root, pairs.split(","))
    path = Path(sys.argv[1]) / f"rank-{collectives.rank()}.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    collectives.shut_down()


if __name__ == "__main__":
    main()
