"""Opens the recipe's shards for a run: `build_stream`, `StoredSentences`, `require_shards`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from distill.distributed.agreement import place_on_node, together
from distill.recipe.recipe import Recipe
from distill.stream.batch import Tokenize
from distill.stream.bitext import BitextStream
from distill.stream.shards import ShardFile, require_files
from distill.tokens import Tokens

#: Language pair → its shards.
Found = Mapping[str, Sequence[ShardFile]]

#: Samples read for each sentence that is wanted of a few: most of bitext is repeated.
_READ_FOR_ONE = 32


def build_stream(
    recipe: Recipe,
    tokenize_source: Tokenize,
    tokenize_target: Tokenize,
    rank: int,
    world_size: int,
    found: Found | None = None,
) -> BitextStream:
    """The recipe's stream as one rank sees it. Not collective.

    Args:
        found: its shards, where they were found before; their files are not looked at then.

    Raises:
        InputError: shards are missing or broken, or hold less than a global batch.
    """
    return BitextStream(
        recipe.data,
        pairs=recipe.pairs,
        seed=recipe.seed,
        rank=rank,
        world_size=world_size,
        tokenize_source=tokenize_source,
        tokenize_target=tokenize_target,
        endless=True,
        found=found,
    )


def require_shards(found: Found) -> None:
    """Check that the shards' files are there; the ranks of a node divide them. Collective.

    Raises:
        InputError: on all ranks, naming a shard that is gone or cut off.
    """
    part, num_parts = place_on_node()
    with together():
        require_files(found, part, num_parts)


class StoredSentences:
    """The sentences of the recipe's shards, for what looks at them before the first step.

    Args:
        recipe: names the shards.
        found: see `build_stream`.
    """

    def __init__(self, recipe: Recipe, found: Found | None = None) -> None:
        data = replace(recipe.data, stored_tokens=False, pad_multiple=1, tokens_per_batch=None)
        self._recipe, self._found = replace(recipe, data=data), found

    def of_part(self, part: int, num_parts: int) -> Iterator[str]:
        """Both sides of every sample in one of several parts; a sentence may come again."""
        for sample in self._stream().samples(part, num_parts):
            yield sample.source
            yield sample.target

    def spread(self, side: str, count: int) -> list[str]:
        """At most `count` distinct sentences of a side from everywhere, always the same ones.

        Reads at most twice `_READ_FOR_ONE` samples for each, however many there are.
        """
        stream = self._stream()
        every = max(1, stream.num_pairs // (count * _READ_FOR_ONE))
        sentences = stream.distinct_texts(side, every)
        return sentences[:: max(1, len(sentences) // count)][:count]

    def _stream(self) -> BitextStream:
        return build_stream(self._recipe, _no_tokens, _no_tokens, 0, 1, self._found)


def _no_tokens(texts: Sequence[str]) -> Tokens:
    raise AssertionError("only text is read here")
