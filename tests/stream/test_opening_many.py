"""Opening many shards: which files are looked at, how often, and by which of a node's ranks."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from distill.distributed import agreement
from distill.errors import InputError
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.stream.shards import find_shards, require_files
from distill.stream.sources import ShardCache
from distill.stream.stored_tokens import store_tokens
from distill.training import streams
from distill.training.checks import check_inputs

PAIRS = {"sw-en": 70, "fi-en": 41}


@pytest.fixture
def looks(monkeypatch) -> Counter[str]:
    """Times that each file was looked at or opened, by its name."""
    counted: Counter[str] = Counter()
    real = os.stat

    def stat(path, *arguments, **options):
        counted[os.path.basename(str(path))] += 1
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    is_on = [True]

    def opened(event, arguments):
        if is_on[0] and event == "open":
            counted[os.path.basename(str(arguments[0]))] += 1

    sys.addaudithook(opened)
    yield counted
    is_on[0] = False


def of_shards(looks: Counter[str]) -> Counter[str]:
    return Counter({name: count for name, count in looks.items() if name.startswith("train-")})


def test_a_manifest_is_all_that_is_read_to_find_shards(make_shards, looks):
    root = make_shards(PAIRS, num_shards=9)
    looks.clear()
    found = find_shards([root], None, "train", ShardCache())
    assert sum(map(len, found.values())) == 18
    assert looks["manifest.json"] == 1
    assert not of_shards(looks)


def test_ranks_of_a_node_look_at_each_shard_once(make_shards, looks):
    root = make_shards(PAIRS, num_shards=9)
    found = find_shards([root], None, "train", ShardCache())
    looks.clear()
    for rank in range(4):
        require_files(found, rank, 4)
        assert sum(of_shards(looks).values()) <= -(-18 // 4) * (rank + 1)
    # Both pairs have shards of the same names.
    assert set(of_shards(looks).values()) == {2}
    assert len(of_shards(looks)) == 9


def test_stored_tokens_are_found_by_listing_their_folder(make_shards, open_stream, tokenize, looks):
    root = make_shards({"sw-en": 70}, num_shards=5)
    for side in ("source", "target"):
        store_tokens(root, side=side, tokenize=tokenize)
    found = find_shards([root], None, "train", ShardCache())
    looks.clear()
    stream = open_stream(root, stored_tokens=True, found=found, micro_batch=4)
    assert not of_shards(looks)
    assert len(next(iter(stream))) == 4


def test_a_rank_that_is_not_alone_leaves_the_files_to_all(tiny_world, monkeypatch, looks, tmp_path):
    """Before they connect no rank looks; then each has its part, and what one misses all raise."""
    recipe = load_settings(Recipe, tiny_world.recipe, [f"runs={tmp_path}"])
    check_inputs(recipe)
    alone = of_shards(looks)
    assert set(alone.values()) == {2}
    looks.clear()
    for name, value in {"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    found = check_inputs(recipe)
    assert not of_shards(looks)
    gone = next(shard for shard in found["so-en"] if shard.place.endswith("1.tar"))
    number = [shard for shards in found.values() for shard in shards].index(gone)
    missing = {
        pair: [_elsewhere(shard, tmp_path) if shard is gone else shard for shard in shards]
        for pair, shards in found.items()
    }
    for rank in range(4):
        monkeypatch.setattr(streams, "place_on_node", lambda rank=rank: (rank, 4))
        streams.require_shards(found)
        if number % 4 == rank:
            with pytest.raises(InputError, match="a shard of the manifest"):
                streams.require_shards(missing)
        else:
            streams.require_shards(missing)
    monkeypatch.undo()
    assert agreement.place_on_node() == (0, 1)


def _elsewhere(shard, folder: Path):
    return replace(shard, place=str(folder / "gone.tar"))
