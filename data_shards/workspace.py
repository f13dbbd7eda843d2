"""Keeps the folder ``.build`` of an unfinished build (`Workspace`), so that the next goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_shards.format import (
    MANIFEST_NAME,
    Manifest,
    ShardNameError,
    index_name,
    read_manifest,
)
from data_shards.whole_files import PARTIAL, cannot_write, read_checked, whole_file
from distill.checksums import sha256_of
from distill.errors import InputError


class Workspace:
    """Paths of a build's intermediate files.

    Args:
        output: folder of the shards.
        fingerprint: hash of the build; files of another build are not reused.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        self.output, self.fingerprint = output, fingerprint
        self._folder = output / ".build"

    def existing(self, overwrite: bool) -> Manifest | None:
        """The manifest of this same build if it is complete, else None.

        Raises:
            InputError: the folder holds another build and `overwrite` is false, or a manifest
                that names files which are no shards.
        """
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"{self.output}: not a folder", "a folder", "name another output")
        if not (self.output / MANIFEST_NAME).exists():
            return None
        try:
            manifest = read_manifest(self.output)
        except ShardNameError:
            raise
        except InputError:
            if not overwrite:
                raise
            return None
        complete = all(
            (self.output / shard.name).is_file()
            and (self.output / shard.name).stat().st_size == shard.bytes
            and (self.output / index_name(shard.name)).is_file()
            for entry in manifest.pairs.values()
            for split in entry.splits.values()
            for shard in split.shards
        )
        if manifest.fingerprint == self.fingerprint:
            return manifest if complete else None
        if not overwrite:
            raise InputError(
                f"{self.output}: shards of other input or settings",
                "an empty folder, or this same build",
                "name another output, or add --overwrite",
            )
        return None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other builds out of the folder for as long as the context lasts.

        Raises:
            InputError: another build is at work in the folder, or it cannot be written.
        """
        lock = self._folder / "lock"
        _refuse_link(self._folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # No link is followed. The lock belongs to this process alone: workers that outlive a
            # killed build hold none.
            file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise cannot_write(self.output, error) from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise InputError(
                f"{self.output}: another build is at work here",
                "one build at a time in a folder",
                "wait for it to end, or name another output",
            ) from error
        try:
            yield
        finally:
            os.close(file)

    def open(self, overwrite: bool) -> None:
        """Make the folder, or take over the one a killed build of the same input left.

        Raises:
            InputError: a folder whose shards are to be deleted is a link, or the folder cannot
                be written.
        """
        state = self._folder / "build.json"
        try:
            left = json.loads(state.read_text())["fingerprint"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            left = None
        if overwrite and (self.output / MANIFEST_NAME).exists():
            self._remove_shards()
        try:
            if left != self.fingerprint:
                for name in ("runs", "shards"):
                    shutil.rmtree(self._folder / name, ignore_errors=True)
            (self.output / MANIFEST_NAME).unlink(missing_ok=True)
            for partial in self.output.glob(f"*-*/*{PARTIAL}"):
                if not partial.parent.is_symlink():
                    partial.unlink()
            (self._folder / "runs").mkdir(exist_ok=True)
            (self._folder / "shards").mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self.output, error) from error
        with whole_file(state) as file:
            file.write(json.dumps({"fingerprint": self.fingerprint}).encode())

    def _remove_shards(self) -> None:
        """Delete what another build's manifest lists, the manifest first, as readers trust it."""
        try:
            manifest = read_manifest(self.output)
        except ShardNameError:
            raise
        except InputError:
            return
        if manifest.fingerprint == self.fingerprint:
            return
        for pair in manifest.pairs:
            _refuse_link(self.output / pair)
        (self.output / MANIFEST_NAME).unlink()
        for entry in manifest.pairs.values():
            for split in entry.splits.values():
                for shard in split.shards:
                    (self.output / shard.name).unlink(missing_ok=True)
                    (self.output / index_name(shard.name)).unlink(missing_ok=True)

    def run_path(self, pair: str, file_number: int, chunk: int) -> Path:
        """Where the run of a chunk goes."""
        return self._folder / "runs" / pair / f"{file_number:03d}-{chunk:06d}.run"

    def run_paths(self, pair: str) -> list[Path]:
        """All runs of a pair, in order of input."""
        return sorted((self._folder / "runs" / pair).glob("*.run"))

    def record_path(self, shard: str) -> Path:
        """Where the manifest's entry of a finished shard waits."""
        return self._folder / "shards" / (shard.replace("/", "_") + ".json")

    def record(self, shard: str) -> dict[str, Any] | None:
        """What is noted of a finished shard; None if it was not written."""
        body = read_checked(self.record_path(shard))
        return None if body is None else json.loads(body)

    def left_record(self, shard: str) -> dict[str, Any] | None:
        """What is noted of a shard that a killed build finished, if its files are as written."""
        record = self.record(shard)
        try:
            whole = record is not None and (
                sha256_of(self.output / shard) == record["shard"]["sha256"]
                and sha256_of(self.output / index_name(shard)) == record["shard"]["index_sha256"]
            )
        except FileNotFoundError:
            return None
        return record if whole else None

    def forget_shards(self) -> None:
        """Have all shards written again."""
        for path in (self._folder / "shards").iterdir():
            path.unlink()

    def close(self) -> None:
        """Delete the intermediate files of a finished build."""
        shutil.rmtree(self._folder)


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise InputError(
            f"{folder}: a link, behind which files would be deleted",
            "a folder of its own",
            "name another output, or delete the link",
        )
