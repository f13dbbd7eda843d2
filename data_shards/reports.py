"""Reports what the things a build looked for matched (`matches`), or refuses it (`Match`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_shards.held_out import HeldOutList
from data_shards.runs import Run, first_pair
from distill.errors import InputError

_SHOWN = 60


@dataclass(frozen=True)
class Match:
    """What came of one held-out list or pattern."""

    name: str
    matched: int
    told: str
    """What matched, or that nothing did."""


def matches(
    runs: Sequence[Run], held_out: Sequence[HeldOutList], drop_patterns: Sequence[str]
) -> Iterator[Match]:
    """What each held-out list and each pattern matched in the pairs that were read."""
    hits = {hashed for run in runs for hashed in run.held_out_hits}
    for listed in held_out:
        matched, count = listed.num_matched(hits), len(listed.sentences)
        told = f"{matched} of {count} held-out sentences are in the bitext"
        if not matched:
            told = (
                f"nothing matched, none of {count} held-out sentences is in the bitext; "
                f"the first was read as {listed.first!r}"
            )
        yield Match(listed.path, matched, told)
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run.pattern_hits)
    for pattern in drop_patterns:
        count = counts[pattern]
        told = f"matched {count} pairs" if count else "nothing matched, it is in no pair"
        yield Match(f"drop pattern {pattern!r}", count, told)


def require_matches(runs: Sequence[Run], found: Sequence[Match]) -> None:
    """Refuse a build of which a held-out list or a pattern matched nothing at all.

    Raises:
        InputError: names the first such, how it was read, and a pair of the bitext.
    """
    for match in found:
        if not match.matched:
            source, target = first_pair(runs)
            raise InputError(
                f"{match.name}: {match.told}; a pair of the bitext is "
                f"{source[:_SHOWN]!r} | {target[:_SHOWN]!r}",
                "a match somewhere in the bitext",
                "correct it, or add --allow-unmatched if the bitext is clean of it already; "
                "what was read is kept",
            )


def malformed(runs: Sequence[Run]) -> str | None:
    """A line about malformed lines, if there are any."""
    count = sum(run.dropped.get("malformed", 0) for run in runs)
    if not count:
        return None
    first = next(run.first_malformed for run in runs if run.first_malformed)
    return f"{count} lines dropped as malformed, the first {first}"
