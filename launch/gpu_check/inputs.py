"""Second part: models with random weights and shards of made-up text, for the parts that train."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from parts import ROOT, part_arguments, write_rows

sys.path.insert(0, str(ROOT / "benchmarks"))

from made_up import (
    build_shards,
    sentence_pairs,
    words_of,
    write_backbone,
    write_teacher,
)

from distill.encoders.directory import load_encoder
from distill.stream.stored_tokens import store_tokens

#: Tokens of a sentence; two special ones and a marker are among them.
LENGTH, SPECIAL = 32, 3
WIDTHS = {True: (32, 64), False: (384, 768)}
LAYERS = {True: 2, False: 12}
WORDS = {True: 500, False: 30_000}
PAIRS = {True: 600, False: 10_000}


def model(folder: Path, width: int) -> Path:
    """Where the late-interaction encoder of a width lies; the student is a copy of it."""
    return folder / f"encoder-{width}"


def shards(folder: Path, lengths: str) -> Path:
    """Where shards of ``full`` sentences lie, or of ``varied`` ones."""
    return folder / lengths / "shards"


def varied_lengths(count: int) -> list[int]:
    """Words of sentences, log-normal around 20 as in bitext, cut at what fits."""
    draw = random.Random(1)
    return [
        max(3, min(LENGTH - SPECIAL, round(draw.lognormvariate(3.0, 0.6)))) for _ in range(count)
    ]


def main() -> None:
    """Make all of them."""
    options = part_arguments(__doc__).parse_args()
    folder, small = options.folder, options.small
    for width in WIDTHS[small]:
        backbone = folder / f"backbone-{width}"
        write_backbone(backbone, width, LAYERS[small], WORDS[small])
        write_teacher(backbone, model(folder, width), LENGTH)
    words = words_of(folder / f"backbone-{WIDTHS[small][0]}")
    for name, lengths in {
        "full": [LENGTH - SPECIAL] * PAIRS[small],
        "varied": varied_lengths(PAIRS[small]),
    }.items():
        shards(folder, name).parent.mkdir()
        build_shards(sentence_pairs(words, lengths), shards(folder, name).parent)
    # A budget of tokens asks how long each sentence is.
    _, text = load_encoder(str(model(folder, WIDTHS[small][0])))
    for side in ("source", "target"):
        store_tokens(shards(folder, "varied"), side=side, tokenize=text.queries)
    write_rows(options.output, [])


if __name__ == "__main__":
    main()
