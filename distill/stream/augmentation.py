"""Changes what the student reads (`Augmentation`): English sentences, spans, switched words.

All are functions of (seed, epoch, position in the epoch's order), like the order itself, so they
are the same at any number of ranks and workers and after a resume. The teacher's side never
changes. (no torch)
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from distill.errors import InputError
from distill.languages import parse_pair
from distill.lexicons.lexicon import Lexicon, lexicon_path, read_lexicon
from distill.lexicons.words import word_spans
from distill.stream.permutation import derive_seed, mix
from distill.stream.settings import CodeSwitchingSettings, CroppingSettings, DataSettings

# Streams of random numbers apart from those of the order.
_MONOLINGUAL, _SWITCHING, _CROPPING = 16, 17, 18
_WORD_RANGE = 2.0**64

#: Word → (translations, their probabilities summed up to 1).
_Table = Mapping[str, tuple[Sequence[str], Sequence[float]]]


@dataclass(frozen=True)
class Changed:
    """A text after augmentation.

    Attributes:
        text: the text.
        num_words: words in it; 0 where none are switched.
        num_switched: words that were replaced.
        cropped: whether it is a span of the sentence.
    """

    text: str
    num_words: int
    num_switched: int
    cropped: bool = False


class CodeSwitcher:
    """Replaces words by translations from a lexicon.

    As in code-switched training for cross-lingual retrieval (Litschko et al., EMNLP Findings 2023,
    section 3): words are replaced where they stand, the rest of the sentence stays. The number of
    words replaced is `share` of the sentence's words, rounded up or down by chance so that the
    mean is exact, or all that the lexicon knows where those are fewer. A translation is drawn by
    its probability, and begins with a capital where the word did.

    Args:
        lexicons: from words of the text to words of the other language.
        share: of a sentence's words.
    """

    def __init__(self, lexicon: Lexicon, share: float) -> None:
        self.share = share
        self._table: _Table = {
            word: _drawable(word, options)
            for word, options in lexicon.translations.items()
            if any(target != word for target, _ in options)
        }

    def __call__(self, text: str, seed: int) -> Changed:
        """The text with words switched; a function of text and seed."""
        spans = word_spans(text)
        known = [number for number, span in enumerate(spans) if span[2] in self._table]
        wanted = int(self.share * len(spans) + mix(seed) / _WORD_RANGE)
        draws = {number: derive_seed(seed, number) for number in known}
        chosen = sorted(sorted(known, key=draws.__getitem__)[:wanted])
        parts, end = [], 0
        for number in chosen:
            start, stop, word = spans[number]
            targets, bounds = self._table[word]
            place = bisect.bisect_right(bounds, mix(draws[number]) / _WORD_RANGE)
            target = targets[min(place, len(targets) - 1)]
            if text[start].isupper():
                target = target[:1].upper() + target[1:]
            parts += [text[end:start], target]
            end = stop
        return Changed("".join([*parts, text[end:]]), len(spans), len(chosen))


def crop(text: str, settings: CroppingSettings, seed: int) -> str:
    """A span of a text, or the text itself by chance or where it has too few words.

    Lengths of spans are uniform in [min_words, max_words], and so are their places.
    """
    spans = word_spans(text)
    taken, length, place = (derive_seed(seed, number) for number in range(3))
    if len(spans) <= settings.max_words or mix(taken) / _WORD_RANGE >= settings.share:
        return text
    num_words = settings.min_words + length % (settings.max_words - settings.min_words + 1)
    first = place % (len(spans) - num_words + 1)
    return text[spans[first][0] : spans[first + num_words - 1][1]]


def _drawable(
    word: str, options: Sequence[tuple[str, float]]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Translations other than the word itself, and the upper bounds of their probabilities."""
    others = [(target, probability) for target, probability in options if target != word]
    total = sum(probability for _, probability in others)
    bounds = accumulate(probability / total for _, probability in others)
    return tuple(target for target, _ in others), tuple(bounds)


@dataclass(frozen=True)
class Augmentation:
    """What the student reads at each place of the order.

    Attributes:
        seed: the stream's.
        monolingual_share: of all samples; there the student reads the English sentence itself.
        source: pair → what switches words of source sentences.
        target: pair → what switches words of English sentences, where the student reads them.
        fingerprint: tells augmentations apart, the lexicons' contents included.
        cropping: how many samples are cropped, to spans of how many words.
    """

    seed: int
    monolingual_share: float
    source: Mapping[str, CodeSwitcher]
    target: Mapping[str, CodeSwitcher]
    fingerprint: str
    cropping: CroppingSettings = field(default_factory=CroppingSettings)

    @property
    def switches(self) -> bool:
        """Whether words are switched at all."""
        return bool(self.source or self.target)

    def is_monolingual(self, epoch: int, position: int) -> bool:
        """Whether the student reads English at a position of an epoch's order.

        Spread evenly: of any n neighbours in the order, share · n are, within one.
        """
        phase = derive_seed(self.seed, _MONOLINGUAL, epoch) / _WORD_RANGE
        before = math.floor(position * self.monolingual_share + phase)
        return math.floor((position + 1) * self.monolingual_share + phase) > before

    def read(
        self, pair: str, monolingual: bool, texts: tuple[str, str], epoch: int, position: int
    ) -> Changed:
        """What the student reads of a sample.

        Args:
            pair: its pair.
            monolingual: whether it reads the target sentence.
            texts: source and target sentence.
            epoch: of the sample's place in the order.
            position: its place in the epoch.
        """
        sentence = texts[1] if monolingual else texts[0]
        text = sentence
        if self.cropping.share:
            text = crop(sentence, self.cropping, derive_seed(self.seed, _CROPPING, epoch, position))
        switcher = (self.target if monolingual else self.source).get(pair)
        if switcher is None:
            changed = Changed(text, len(word_spans(text)) if self.switches else 0, 0)
        else:
            changed = switcher(text, derive_seed(self.seed, _SWITCHING, epoch, position))
        return replace(changed, cropped=text != sentence)


def open_augmentation(data: DataSettings, pairs: Sequence[str], seed: int) -> Augmentation | None:
    """The augmentation that a recipe asks for; None where it asks for none.

    Raises:
        InputError: a lexicon of one of the pairs is missing, broken or empty.
    """
    switching = data.code_switching
    if not (switching.share or data.hybrid.monolingual_share or data.cropping.share):
        return None
    digest = hashlib.sha256(repr((switching, data.hybrid, data.cropping)).encode())
    source: dict[str, CodeSwitcher] = {}
    target: dict[str, CodeSwitcher] = {}
    for pair in pairs:
        sides = parse_pair(pair, "pairs")
        if switching.share and switching.side != "target":
            source[pair] = _switcher(switching, sides.source, sides.target, digest)
        if switching.share and switching.side != "source":
            target[pair] = _switcher(switching, sides.target, sides.source, digest)
    return Augmentation(
        seed,
        data.hybrid.monolingual_share,
        source,
        target,
        digest.hexdigest()[:16],
        data.cropping,
    )


def _switcher(
    switching: CodeSwitchingSettings, source: str, target: str, digest: hashlib._Hash
) -> CodeSwitcher:
    assert switching.lexicon is not None, "the settings see to it"
    path = lexicon_path(Path(switching.lexicon), source, target)
    lexicon = read_lexicon(path)
    if not lexicon.translations:
        raise InputError(f"lexicon {path}: empty", "words to switch", "learn one from more bitext")
    digest.update(repr(sorted(lexicon.translations.items())).encode())
    return CodeSwitcher(lexicon, switching.share)
