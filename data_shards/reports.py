"""Reports what the things a build looked for matched, or that nothing did: `matches`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from data_shards.held_out import HeldOutList
from data_shards.runs import Run


def matches(
    runs: Sequence[Run], held_out: Sequence[HeldOutList], drop_patterns: Sequence[str]
) -> Iterator[str]:
    """A line for each held-out list and pattern, and one for malformed lines if there are any."""
    hits = {hashed for run in runs for hashed in run.held_out_hits}
    for listed in held_out:
        yield listed.report(hits)
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run.pattern_hits)
    for pattern in drop_patterns:
        count = counts[pattern]
        told = f"matched {count} pairs" if count else "nothing matched, it is in no pair"
        yield f"drop pattern {pattern!r}: {told}"
    malformed = sum(run.dropped.get("malformed", 0) for run in runs)
    if malformed:
        first = next(run.first_malformed for run in runs if run.first_malformed)
        yield f"{malformed} lines dropped as malformed, the first {first}"
