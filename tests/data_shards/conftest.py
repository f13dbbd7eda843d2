"""Small bitext, invented here, for the tests of building shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data_shards.build import BuildSettings, build
from data_shards.format import Manifest
from data_shards.rows import BitextInput


@pytest.fixture
def write_tsv(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as a TSV file below `tmp_path`."""

    def write(rows: Sequence[tuple[str, ...]], name: str = "bitext.tsv") -> Path:
        path = tmp_path / name
        path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def build_pairs(tmp_path: Path) -> Callable[..., Manifest]:
    """Builds one TSV file of a pair into ``tmp_path/shards``."""

    def run(path: Path, pair: str = "sw-en", **options: object) -> Manifest:
        item = BitextInput(pair=pair, paths=(str(path),), format="tsv")
        options.setdefault("dev_fraction", 0.0)
        options.setdefault("output", tmp_path / "shards")
        settings = BuildSettings(inputs=(item,), **options)  # type: ignore[arg-type]
        return build(settings, progress=False)[0]

    return run
