"""Prints a manifest as a table (`manifest_table`)."""

from __future__ import annotations

from data_shards.cleaning import REASONS
from data_shards.format import SPLITS, Manifest


def manifest_table(manifest: Manifest) -> str:
    """Per pair: lines read and kept, those dropped by reason, and the size of the splits.

    Columns of reasons that dropped nothing are left out.
    """
    counts = {pair: entry.counts for pair, entry in manifest.pairs.items()}
    reasons = [
        reason for reason in REASONS if any(count.dropped.get(reason) for count in counts.values())
    ]
    rows = [["pair", "read", "kept", *reasons, "train", "dev", "shards", "MiB"]]
    for pair, entry in manifest.pairs.items():
        splits = entry.splits
        shards = [shard for split in splits.values() for shard in split.shards]
        rows.append(
            [
                pair,
                f"{entry.counts.read:,}",
                f"{entry.counts.kept:,}",
                *(f"{entry.counts.dropped.get(reason, 0):,}" for reason in reasons),
                *(f"{splits[name].num_pairs:,}" if name in splits else "0" for name in SPLITS),
                str(len(shards)),
                f"{sum(shard.bytes for shard in shards) / 2**20:.1f}",
            ]
        )
    return _aligned(rows)


def sources_table(manifest: Manifest) -> str:
    """Per input: pair, file, name of the source, licence, and the start of its checksum."""
    rows = [["pair", "file", "source", "licence", "sha256"]]
    for pair, entry in manifest.pairs.items():
        for source in entry.sources:
            row = [pair, source.path, source.name, source.licence, source.sha256[:12]]
            rows.append([cell or "-" for cell in row])
    return _aligned(rows, num_left=len(rows[0]))


def _aligned(rows: list[list[str]], num_left: int = 1) -> str:
    """Rows as lines; the first `num_left` columns flush left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < num_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
