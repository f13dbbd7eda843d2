"""Groups of shards, one a node: what eight nodes copy, and that nothing else changes."""

from __future__ import annotations

import functools
import http.server
import threading
from collections import Counter

import pytest

from distill.errors import InputError
from distill.stream.settings import CacheSettings

NODES, PAIRS = 8, {"sw-en": 1280, "fi-en": 320}


class _Counted(http.server.SimpleHTTPRequestHandler):
    """Counts the bytes of tars and of indexes that are sent."""

    def copyfile(self, source, outputfile):
        contents = source.read()
        self.server.sent[self.path.rpartition(".")[2]] += len(contents)
        outputfile.write(contents)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def served(make_shards):
    root = make_shards(PAIRS, num_shards=40)
    handler = functools.partial(_Counted, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.sent = Counter()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, root
        server.shutdown()
        thread.join()


def test_eight_nodes_copy_each_byte_about_once(served, open_stream, tmp_path):
    server, root = served
    whole = {
        kind: sum(path.stat().st_size for path in root.rglob(f"*.{kind}"))
        for kind in ("tar", "npy")
    }

    def epoch(name: str, **settings) -> tuple[Counter[str], dict[str, float]]:
        """Keys that all nodes read in an epoch, and times that all data was sent for it."""
        server.sent.clear()
        keys: Counter[str] = Counter()
        for node in range(NODES):
            stream = open_stream(
                f"http://127.0.0.1:{server.server_port}",
                rank=node,
                world_size=NODES,
                micro_batch=5,
                bucket_window=256,
                bucket_size=16,
                cache=CacheSettings(folder=tmp_path / name / str(node)),
                **settings,
            )
            keys.update(key for batch in stream for key in batch.keys)
            stream.close()
        return keys, {kind: server.sent[kind] / size for kind, size in whole.items()}

    plain_keys, plain = epoch("plain")
    keys, grouped = epoch("grouped", shard_groups=NODES)
    assert keys == plain_keys
    assert set(keys.values()) == {1}
    assert len(keys) == sum(PAIRS.values())
    assert min(plain.values()) > 7
    # Each pair has seven shards of its forty that lie in two groups.
    assert max(grouped.values()) <= 1 + 7 / 40 + 0.02
    # Nothing is left to copy for the next epoch.
    assert epoch("grouped", shard_groups=NODES)[1] == {"tar": 0, "npy": 0}


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 8])
def test_parts_of_all_samples_are_disjoint_and_of_few_groups(make_shards, open_stream, num_parts):
    root = make_shards({"sw-en": 320, "fi-en": 90}, num_shards=20)
    stream = open_stream(root, shard_groups=4)
    parts = [
        [sample.key for sample in stream.samples(part, num_parts)] for part in range(num_parts)
    ]
    plain = [sample.key for sample in open_stream(root).samples()]
    assert sorted(key for part in parts for key in part) == sorted(plain)
    if num_parts == 1:
        assert parts[0] == plain


def test_a_position_is_kept_on_other_numbers_of_nodes(make_shards, open_stream):
    """The order is one of groups, not of nodes: other ranks go on where eight stopped."""
    options = {"shard_groups": 4, "bucket_window": 64, "bucket_size": 8, "seed": 3}
    root = make_shards({"sw-en": 320, "fi-en": 90}, num_shards=20)
    seen: Counter[str] = Counter()
    state = None
    for world_size, micro_batch, num_steps in ((8, 2, 9), (2, 6, 5), (3, 4, None)):
        states = []
        for rank in range(world_size):
            stream = open_stream(
                root, rank=rank, world_size=world_size, micro_batch=micro_batch, **options
            )
            if state is not None:
                stream.load_state_dict(state)
            for number, batch in enumerate(stream, 1):
                seen.update(batch.keys[: len(batch) - batch.num_filled])
                if number == num_steps:
                    break
            states.append(stream.state_dict())
            drawn = stream.drawn()
        assert all(other == states[0] for other in states)
        state = states[0]
        assert sum(drawn.values()) == sum(seen.values())
        for pair, count in drawn.items():
            found = sum(number for key, number in seen.items() if key.startswith(pair))
            assert abs(found - count) <= 16
    assert set(seen.values()) == {1}
    assert len(seen) == 410
    with pytest.raises(InputError, match="resume with the same shards"):
        open_stream(root, **(options | {"shard_groups": 2})).load_state_dict(state)


def test_more_groups_than_samples_are_refused(make_shards, open_stream):
    with pytest.raises(InputError, match=r"data\.shard_groups: 100, and 90 samples of fi-en"):
        open_stream(make_shards({"sw-en": 320, "fi-en": 90}, num_shards=20), shard_groups=100)
