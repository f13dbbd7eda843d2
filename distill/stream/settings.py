"""Holds the stream's settings in a recipe, ``data.…``: `DataSettings` (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distill.errors import InputError, require_above, require_at_least
from distill.stream.mixing import Mixing
from distill.stream.sources import ShardCache

_PREFETCH_BATCHES, _BUCKET_SIZE = 4, 256
_SPAN_WORDS = (3, 8)

#: Settings of `DataSettings` that change no batch, so that a training run may go on with others.
NO_EFFECT_ON_BATCHES = ("num_workers", "prefetch_batches", "pin_memory", "stored_tokens", "cache")


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Copies of shards that are behind a URL or a command."""

    folder: Path | None = None
    """Folder of the copies, on a disk of each machine. Default: none, the user's cache folder."""
    limit_gib: float | None = None
    """GiB of copies, beyond which those used longest ago are deleted. Default: none, all are
    kept."""
    attempts: int = 5
    """Tries of a copy before its shard counts as unreadable. Default: 5."""
    backoff_seconds: float = 0.5
    """Seconds of pause after the first failure; doubled after each further one. Default: 0.5."""
    timeout_seconds: float = 30.0
    """Seconds a server may be silent. Default: 30.0."""

    def __post_init__(self) -> None:
        require_at_least(1, "data.cache.attempts", self.attempts)
        require_at_least(0, "data.cache.backoff_seconds", self.backoff_seconds)
        for name in ("timeout_seconds", "limit_gib"):
            value = getattr(self, name)
            if value is not None:
                require_above(0, f"data.cache.{name}", value)

    def open(self) -> ShardCache:
        """The cache itself."""
        chosen = {} if self.folder is None else {"folder": self.folder}
        return ShardCache(
            **chosen,
            attempts=self.attempts,
            backoff_seconds=self.backoff_seconds,
            timeout_seconds=self.timeout_seconds,
            limit_gib=self.limit_gib,
        )


@dataclass(frozen=True, kw_only=True)
class CodeSwitchingSettings:
    """Words of what the student reads replaced by their translations."""

    share: float = 0.0
    """Share of a sentence's words, from 0 to 1, that are replaced, as far as the lexicon knows
    them. Default: 0.0."""
    lexicon: Path | None = None
    """Folder that ``distill learn-lexicon RECIPE`` wrote: ``sw-en.tsv``, ``en-sw.tsv``. Default:
    none."""
    side: Literal["source", "target", "both"] = "source"
    """Sentences that are switched: `source`, source sentences into English; `target`, the English
    ones that the student reads in hybrid batches, into the source language; or `both`. Default:
    source."""

    def __post_init__(self) -> None:
        _share("data.code_switching.share", self.share)
        if self.share and self.lexicon is None:
            raise InputError(
                f"data.code_switching.share: {self.share} without a lexicon",
                "a folder of lexicons",
                "learn one with distill learn-lexicon and set code_switching.lexicon",
            )
        if not self.share and (self.lexicon is not None or self.side != "source"):
            raise InputError(
                "data.code_switching with share 0",
                "a share of words that are replaced",
                "set data.code_switching.share, or leave code_switching out",
            )


@dataclass(frozen=True, kw_only=True)
class HybridSettings:
    """Monolingual samples among the cross-lingual ones (after Elmahdy et al., arXiv 2408.10536)."""

    monolingual_share: float = 0.0
    """Share of samples, from 0 to 1, of which the student reads the English sentence itself.
    Default: 0.0."""

    def __post_init__(self) -> None:
        _share("data.hybrid.monolingual_share", self.monolingual_share)


@dataclass(frozen=True, kw_only=True)
class CroppingSettings:
    """Spans of sentences as the student's input: queries have few words, sentences of bitext many.

    As the random cropping of Izacard et al. (TMLR 2022, section 3.1), on the student's side only;
    the teacher reads the whole English sentence. Words are runs of letters and digits: text
    without spaces stays as it is.
    """

    share: float = 0.0
    """Share of samples, from 0 to 1, of which the student reads a span only. Default: 0.0."""
    min_words: int = _SPAN_WORDS[0]
    """Words of the shortest span. Default: 3."""
    max_words: int = _SPAN_WORDS[1]
    """Words of the longest span; shorter sentences stay as they are. Default: 8."""

    def __post_init__(self) -> None:
        _share("data.cropping.share", self.share)
        require_at_least(1, "data.cropping.min_words", self.min_words)
        require_at_least(self.min_words, "data.cropping.max_words", self.max_words)
        if not self.share and (self.min_words, self.max_words) != _SPAN_WORDS:
            raise InputError(
                "data.cropping with share 0",
                "a share of samples that are cropped",
                "set data.cropping.share, or leave cropping out",
            )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Shards, their mixing and the batches cut from them."""

    shards: tuple[str, ...] = ()
    """Directories with a manifest, as ``distill shards build`` writes them, on disk or behind a
    URL; or tars of one pair, ``sw-en=PATTERN`` or ``sw-en=pipe:COMMAND``. Required."""
    split: str = "train"
    """Split of the shards that is trained on. Default: train."""
    max_pairs: int | None = None
    """Samples of each language pair that are used, the first ones. Default: none, all."""
    micro_batch: int = 32
    """Sentence pairs of each rank in each forward; with `tokens_per_batch` the most. Default:
    32."""
    tokens_per_batch: int | None = None
    """Tokens of either side, padding included, that a micro-batch has at most: as many pairs of
    nearly the same length as fit, so that little is padded and all micro-batches cost the same.
    Raise `micro_batch` with it. Lengths are those of the stored tokens, before words are switched.
    Default: none, `micro_batch` pairs whatever their length."""
    accumulation_steps: int = 1
    """Micro-batches whose gradients are added up before an optimizer step. Default: 1."""
    num_workers: int = 1
    """Reading processes of each rank; 0 reads in the training process. Default: 1."""
    prefetch_batches: int = _PREFETCH_BATCHES
    """Micro-batches that each reading process prepares ahead. Default: 4."""
    pin_memory: bool | None = None
    """Whether batches lie in pinned memory, so that copies overlap with compute. Default: none,
    true where there is CUDA."""
    mixing: Mixing = field(default_factory=Mixing)
    """Share of each language pair in the stream."""
    shuffle_window: int = 16384
    """Samples of a pair that are shuffled together, after the shards; 0 for the stored order.
    Default: 16384."""
    bucket_window: int = 4096
    """Samples sorted by length together, so that batches have little padding; 0 for none. Default:
    4096."""
    bucket_size: int = _BUCKET_SIZE
    """Neighbours by length that stay together in a bucket window. Default: 256."""
    pad_multiple: int = 1
    """Number of tokens that padded lengths are a multiple of, for few shapes. Default: 1."""
    stored_tokens: bool = False
    """Whether the tokens that ``distill store-tokens RECIPE`` stored next to the shards are read.
    Default: false."""
    max_bad_fraction: float = 0.001
    """Largest share of unreadable samples, from 0 to 1, before the run stops. Default: 0.001."""
    cache: CacheSettings = field(default_factory=CacheSettings)
    """Copies of shards that are behind a URL or a command."""
    code_switching: CodeSwitchingSettings = field(default_factory=CodeSwitchingSettings)
    """Words replaced by their translations."""
    hybrid: HybridSettings = field(default_factory=HybridSettings)
    """English sentences among the student's input."""
    cropping: CroppingSettings = field(default_factory=CroppingSettings)
    """Spans of sentences among the student's input."""

    def __post_init__(self) -> None:
        for name in ("micro_batch", "accumulation_steps", "prefetch_batches", "bucket_size"):
            require_at_least(1, f"data.{name}", getattr(self, name))
        require_at_least(1, "data.pad_multiple", self.pad_multiple)
        if self.max_pairs is not None:
            require_at_least(1, "data.max_pairs", self.max_pairs)
        for name in ("num_workers", "shuffle_window", "bucket_window", "max_bad_fraction"):
            require_at_least(0, f"data.{name}", getattr(self, name))
        if not self.shards:
            raise InputError(
                "data.shards: none",
                "a directory of shards",
                "build one with distill shards build and set data.shards=[DIRECTORY]",
            )
        if self.prefetch_batches != _PREFETCH_BATCHES and not self.num_workers:
            raise InputError(
                f"data.prefetch_batches: {self.prefetch_batches} with data.num_workers: 0",
                "processes that prepare batches ahead",
                "set data.num_workers to 1 or more, or leave prefetch_batches out",
            )
        if self.bucket_size != _BUCKET_SIZE and not self.bucket_window:
            raise InputError(
                f"data.bucket_size: {self.bucket_size} with data.bucket_window: 0",
                "a window to sort by length",
                "set data.bucket_window, or leave bucket_size out",
            )
        self._check_tokens_per_batch()
        self._check_switched_side()

    def _check_tokens_per_batch(self) -> None:
        if self.tokens_per_batch is None:
            return
        require_at_least(1, "data.tokens_per_batch", self.tokens_per_batch)
        found = f"data.tokens_per_batch: {self.tokens_per_batch}"
        if not self.stored_tokens:
            raise InputError(
                f"{found} without data.stored_tokens",
                "stored tokens, which say how long each sentence is",
                "set data.stored_tokens=true, and run distill store-tokens RECIPE once",
            )
        if not self.bucket_window or self.bucket_size != _BUCKET_SIZE:
            raise InputError(
                f"{found} with data.bucket_window: {self.bucket_window}, "
                f"data.bucket_size: {self.bucket_size}",
                "a window to sort by length, all of which the budget cuts",
                "set data.bucket_window=4096, and leave bucket_size out",
            )

    def _check_switched_side(self) -> None:
        side, share = self.code_switching.side, self.hybrid.monolingual_share
        if side != "source" and not share:
            raise InputError(
                f"data.code_switching.side: {side} without hybrid batches",
                "English sentences that the student reads",
                "set data.hybrid.monolingual_share above 0, or side to source",
            )
        if self.code_switching.share and side != "target" and share == 1:
            raise InputError(
                f"data.code_switching.side: {side} with data.hybrid.monolingual_share: 1",
                "source sentences that the student reads",
                "set side to target, or lower the share",
            )


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name}: {value}", "a share from 0 to 1", "correct it")
