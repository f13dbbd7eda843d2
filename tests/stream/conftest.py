"""Small shards and a tokenisation, invented here, for the tests of the stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from data_shards.build import BuildSettings, build
from data_shards.rows import BitextInput
from distill.stream.bitext import BitextStream
from distill.tokens import Tokens


class CharacterTokens:
    """One token per character: its code point, between two marks. Pads with 0."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        width = max(len(text) for text in texts) + 2
        input_ids = torch.zeros(len(texts), width, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids = [1, *(ord(character) for character in text), 2]
            input_ids[row, : len(ids)] = torch.tensor(ids)
        attended = input_ids > 0
        return Tokens(input_ids, attended.long(), attended, input_ids > 2)


@pytest.fixture(scope="session")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds shards of pairs with the given numbers of samples and shards; cached."""
    made: dict[tuple[object, ...], Path] = {}

    def make(
        num_pairs: dict[str, int],
        num_shards: int = 3,
        dev_fraction: float = 0.0,
        text: str = "neno",
    ) -> Path:
        key = (*num_pairs.items(), num_shards, dev_fraction, text)
        if key not in made:
            root = tmp_path_factory.mktemp("shards")
            inputs = []
            for pair, count in num_pairs.items():
                path = root / f"{pair}.tsv"
                rows = [
                    f"{pair} {f'{text} ' * (n % 7)}{n}\t{'word ' * (n % 5 + 1)}{n}\n"
                    for n in range(count)
                ]
                path.write_text("".join(rows), encoding="utf-8")
                inputs.append(BitextInput(pair=pair, paths=(str(path),), format="tsv"))
            settings = BuildSettings(
                inputs=tuple(inputs),
                output=root / "shards",
                num_shards=num_shards,
                dev_fraction=dev_fraction,
            )
            build(settings, progress=False)
            made[key] = root / "shards"
        return made[key]

    return make


@pytest.fixture
def tokenize() -> CharacterTokens:
    """A tokenisation by character."""
    return CharacterTokens()


@pytest.fixture
def open_stream() -> Callable[..., BitextStream]:
    """A `BitextStream` without workers that tokenises by character."""

    def make(root: Path | Sequence[Path], **options: object) -> BitextStream:
        options.setdefault("tokenize_source", CharacterTokens())
        options.setdefault("tokenize_target", CharacterTokens())
        options.setdefault("num_workers", 0)
        return BitextStream(root, **options)  # type: ignore[arg-type]

    return make
