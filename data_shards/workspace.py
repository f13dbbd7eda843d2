"""Keeps the folder ``.build`` of an unfinished build (`Workspace`), so that the next goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from data_shards.format import MANIFEST_NAME, Manifest, index_name, read_manifest
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
            InputError: the folder holds another build and `overwrite` is false.
        """
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"{self.output}: not a folder", "a folder", "name another output")
        if not (self.output / MANIFEST_NAME).exists():
            return None
        try:
            manifest = read_manifest(self.output)
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
        self._remove(manifest)
        return None

    def _remove(self, manifest: Manifest) -> None:
        """Delete what a manifest lists, the manifest first: no reader may trust the rest."""
        (self.output / MANIFEST_NAME).unlink()
        for entry in manifest.pairs.values():
            for split in entry.splits.values():
                for shard in split.shards:
                    (self.output / shard.name).unlink(missing_ok=True)
                    (self.output / index_name(shard.name)).unlink(missing_ok=True)

    def open(self) -> None:
        """Make the folder, or take over the one a killed build of the same input left."""
        state = self._folder / "build.json"
        try:
            left = json.loads(state.read_text())["fingerprint"]
        except (FileNotFoundError, ValueError, KeyError):
            left = None
        if left != self.fingerprint:
            shutil.rmtree(self._folder, ignore_errors=True)
        (self.output / MANIFEST_NAME).unlink(missing_ok=True)
        try:
            (self._folder / "runs").mkdir(parents=True, exist_ok=True)
            (self._folder / "shards").mkdir(exist_ok=True)
        except OSError as error:
            found = f"{self.output}: {error.strerror}"
            raise InputError(
                found, "a folder that can be written", "name another output"
            ) from error
        state.write_text(json.dumps({"fingerprint": self.fingerprint}))

    def run_path(self, pair: str, file_number: int, chunk: int) -> Path:
        """Where the run of a chunk goes; its folder is made."""
        folder = self._folder / "runs" / pair
        folder.mkdir(exist_ok=True)
        return folder / f"{file_number:03d}-{chunk:06d}.run"

    def run_paths(self, pair: str) -> list[Path]:
        """All runs of a pair, in order of input."""
        return sorted((self._folder / "runs" / pair).glob("*.run"))

    def record_path(self, shard: str) -> Path:
        """Where the manifest's entry of a finished shard waits."""
        return self._folder / "shards" / (shard.replace("/", "_") + ".json")

    def close(self) -> None:
        """Delete the intermediate files of a finished build."""
        shutil.rmtree(self._folder)
