"""Builds shards (`build`): chunks of input → sorted runs → shards → manifest.

Both passes run in parallel and leave complete files only, so that a build that was killed goes on
where it stopped: runs and shards already there are kept, and the manifest is written last.
The bytes that are written do not depend on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_shards.cleaning import CleaningRules
from data_shards.entries import pair_entry
from data_shards.format import (
    FORMAT_VERSION,
    Manifest,
    write_manifest,
)
from data_shards.held_out import HeldOutList, read_held_out
from data_shards.identification import require_identifier, script_of
from data_shards.opening import STDIN, is_local_file, require_file
from data_shards.parallel import run_tasks
from data_shards.partition import PairPartition, ShardTask, partition_pair
from data_shards.readers import read_rows
from data_shards.reports import malformed, matches, require_matches
from data_shards.rows import BitextInput, Row
from data_shards.runs import (
    ChunkRules,
    forget_runs,
    open_run,
    pairs_in_range,
    write_run,
)
from data_shards.space import require_space
from data_shards.tarfiles import write_shard
from data_shards.whole_files import read_checked, write_checked
from data_shards.workspace import Workspace
from distill.checksums import sha256_of
from distill.errors import InputError
from distill.languages import parse_pair

# Counts how input is read: a later reading of the same files is another build.
_READING = 2
#: Rows a worker cleans at once: some 5 MB of text.
CHUNK_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What to build, from what, by which rules."""

    inputs: tuple[BitextInput, ...]
    """Input files; those of one pair are concatenated in this order. Required."""
    output: Path
    """Folder for the shards, made if it is missing. Required."""
    cleaning: CleaningRules = field(default_factory=CleaningRules)
    """Which pairs are kept."""
    held_out: tuple[str, ...] = ()
    """Files of held-out sentences; pairs with one of them on either side are dropped. Default:
    none."""
    allow_unmatched: bool = False
    """Whether a held-out list, or a pattern of `cleaning`, may match nothing in all of the bitext.
    Default: false."""
    dev_fraction: float = 0.01
    """Share of target sentences, from 0 to 1, that go to the dev split, chosen by hash. Default:
    0.01."""
    num_shards: int = 0
    """Training shards per pair; 0 lets `pairs_per_shard` decide. Default: 0."""
    pairs_per_shard: int = 10_000
    """Pairs in a shard, about, where `num_shards` is 0 and for the dev split. Default: 10000, 10 to
    15 MB."""
    compression: str = "none"
    """"none", or "gzip": .tar.gz shards, smaller to store and send; streams unpack them first.
    Default: none."""
    workers: int = 1
    """Processes that clean and write. Default: 1."""
    overwrite: bool = False
    """Whether the shards of another build in `output` are replaced. Default: false."""

    def __post_init__(self) -> None:
        if not 0 <= self.dev_fraction < 1:
            raise InputError(f"--dev-fraction: {self.dev_fraction}", "0 ≤ share < 1", "use 0.01")
        for option in ("pairs_per_shard", "workers"):
            if getattr(self, option) < 1:
                found = f"--{option.replace('_', '-')}: {getattr(self, option)}"
                raise InputError(found, "at least 1", "leave it out for the default")
        if self.compression not in ("none", "gzip"):
            raise InputError(f"--compression: {self.compression!r}", "none or gzip", "choose one")
        if self.num_shards < 0:
            raise InputError(f"--num-shards: {self.num_shards}", "0 or more", "leave it out")
        if not self.inputs:
            raise InputError("no input", "at least one --pair PAIR=FILE", "name a file of bitext")
        pairs = [parse_pair(item.pair) for item in self.inputs]
        for pair in pairs:
            if pair.source == pair.target and not self.cleaning.keep_identical:
                raise InputError(
                    f"--pair {pair}: one language",
                    "two different languages, or text that stands on both sides",
                    "name another source, or keep equal sides (--keep-identical)",
                )
        languages = tuple({code: None for pair in pairs for code in (pair.source, pair.target)})
        if self.cleaning.check_script:
            for language in languages:
                script_of(language)
        if self.cleaning.language_identifier == "lingua":
            require_identifier(languages)

    def rules(self) -> dict[str, Any]:
        """The settings that decide what the shards contain, for the manifest."""
        patterns = list(self.cleaning.drop_patterns)
        return {
            "cleaning": asdict(self.cleaning) | {"drop_patterns": patterns},
            "dev_fraction": self.dev_fraction,
            "num_shards": self.num_shards,
            "pairs_per_shard": self.pairs_per_shard,
            "compression": self.compression,
        }


def build(
    settings: BuildSettings, progress: bool = True, report: Callable[[str], None] | None = None
) -> tuple[Manifest, bool]:
    """Build the shards of all pairs.

    Args:
        settings: what to build.
        progress: show progress bars on standard error.
        report: takes a line of what held-out lists and patterns matched and what was malformed.

    Returns:
        The manifest, and whether anything was built: the same build is not done twice.

    Raises:
        InputError: bad input, a held-out list or pattern that nothing matched, no space, or another
            build or its shards in the way.
    """
    for item in settings.inputs:
        for path in item.paths:
            require_file(path)
    for path in settings.held_out:
        require_file(path)
    checksums = {
        path: sha256_of(path)
        for item in settings.inputs
        for path in item.paths
        if is_local_file(path)
    }
    workspace = Workspace(settings.output, _fingerprint(settings, checksums))
    existing = workspace.existing(settings.overwrite)
    if existing is not None:
        return existing, False
    held_out = [read_held_out(path) for path in settings.held_out]
    require_space(settings.inputs, settings.output, settings.cleaning.malformed)
    with workspace.alone():
        # Another build may have ended since.
        existing = workspace.existing(settings.overwrite)
        if existing is None:
            workspace.open(settings.overwrite)
            built = _build_alone(settings, workspace, checksums, held_out, progress, report)
        workspace.close()
    return (built, True) if existing is None else (existing, False)


def _build_alone(
    settings: BuildSettings,
    workspace: Workspace,
    checksums: dict[str, str],
    held_out: list[HeldOutList],
    progress: bool,
    report: Callable[[str], None] | None,
) -> Manifest:
    hashes = frozenset(
        hashed for listed in held_out for sentence in listed.sentences for hashed in sentence
    )
    rules = ChunkRules(settings.cleaning, hashes, settings.dev_fraction)
    _write_runs(settings, workspace, rules, progress)
    pairs = dict.fromkeys(item.pair for item in settings.inputs)
    partitions = {
        pair: partition_pair(
            pair,
            [item for item in settings.inputs if item.pair == pair],
            workspace.run_paths(pair),
            settings.num_shards,
            settings.pairs_per_shard,
            settings.compression,
        )
        for pair in pairs
    }
    runs = [open_run(path) for partition in partitions.values() for path in partition.runs]
    found = list(matches(runs, held_out, settings.cleaning.drop_patterns))
    if not settings.allow_unmatched:
        require_matches(runs, found)
    _write_shards(partitions, settings, workspace, progress)
    entries = {
        pair: pair_entry(pair, partition, settings.inputs, workspace, checksums)
        for pair, partition in partitions.items()
    }
    manifest = Manifest(workspace.fingerprint, settings.rules(), entries)
    write_manifest(settings.output, manifest)
    if report is not None:
        lines = [*(f"{match.name}: {match.told}" for match in found), malformed(runs)]
        for line in filter(None, lines):
            report(line)
    forget_runs()
    return manifest


def _fingerprint(settings: BuildSettings, checksums: dict[str, str]) -> str:
    inputs = [
        asdict(item) | {"paths": [checksums.get(path, path) for path in item.paths]}
        for item in settings.inputs
    ]
    held_out = [sha256_of(path) for path in settings.held_out]
    described = [FORMAT_VERSION, _READING, settings.rules(), inputs, held_out]
    if any(path == STDIN for item in settings.inputs for path in item.paths):
        # What comes in next time is not known to be the same: such a build is never resumed.
        described.append(uuid.uuid4().hex)
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _write_runs(
    settings: BuildSettings, workspace: Workspace, rules: ChunkRules, progress: bool
) -> None:
    """First pass: every chunk of every input becomes a sorted run."""
    file_numbers: Counter[str] = Counter()

    def tasks(bar: tqdm[Any]) -> Iterator[tuple[Any, ...]]:
        for item in settings.inputs:
            file_number = file_numbers[item.pair]
            file_numbers[item.pair] += 1
            rows = read_rows(item, settings.cleaning.malformed)
            for number, chunk in enumerate(_chunks(rows)):
                path = workspace.run_path(item.pair, file_number, number)
                if read_checked(path) is None:
                    # Shards made from a run that was damaged since may be damaged too.
                    workspace.forget_shards()
                    yield path, item.pair, file_number, item.name, chunk, rules
                bar.update(len(chunk))

    with tqdm(desc="reading", unit=" pairs", unit_scale=True, disable=not progress) as bar:
        for _ in run_tasks(write_run, tasks(bar), settings.workers):
            pass


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield chunk


def write_shard_of_runs(root: Path, record: Path, task: ShardTask, run_paths: list[Path]) -> None:
    """Second pass: gather a range of hashes from all runs and write its shard.

    Leaves ``record``: the manifest's entry and the number of duplicates dropped.
    """
    runs = [open_run(path) for path in run_paths]
    pairs, duplicates = pairs_in_range(runs, task.split, task.first_hash, task.last_hash)
    shard = write_shard(root, task.name, pairs)
    write_checked(record, json.dumps({"shard": asdict(shard), "duplicates": duplicates}).encode())


def _write_shards(
    partitions: dict[str, PairPartition],
    settings: BuildSettings,
    workspace: Workspace,
    progress: bool,
) -> None:
    """Second pass: the shards that a killed build has not left complete."""
    listed = [
        (task, partition.runs) for partition in partitions.values() for task in partition.tasks
    ]
    with tqdm(desc="writing", unit=" shards", total=len(listed), disable=not progress) as bar:

        def tasks() -> Iterator[tuple[Any, ...]]:
            for task, runs in listed:
                if workspace.left_record(task.name) is None:
                    yield settings.output, workspace.record_path(task.name), task, runs
                else:
                    bar.update()

        for _ in run_tasks(write_shard_of_runs, tasks(), settings.workers):
            bar.update()
