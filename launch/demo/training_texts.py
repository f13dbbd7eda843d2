"""What is trained on: bitext for the student and English (query, passage) pairs for the teacher.

Names are translations of each other. Keyword lists are not: they are sorted by alphabet and
chosen anew in each language, so a token of one list often has no counterpart in the other, which
a transport between tokens would be forced to invent. Words that go together over many emoji are
found by counting, and lists are reduced to those, in the same order on both sides. The lists as
they stand are written apart ("loose").
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from annotations import ENGLISH, Emoji, Split, fold, leak_filter

#: A word pair of the dictionary occurs this often and with this Dice coefficient, or more.
MIN_TOGETHER = 2
MIN_DICE = 0.6
#: Keywords of a teacher's query that is a part of an entry.
SPAN_LENGTH = 3

Row = tuple[str, str, str]
"""Source text, English text, origin."""


def without_leaks(split: Split, languages: Iterable[str]) -> tuple[list[Emoji], list[Emoji]]:
    """Training emoji and flags without the keywords that contain a held-out name.

    Their names need no such care: `split_emoji` chose test and dev so.
    """
    languages = list(languages)
    held_out = [*split.test, *split.dev]
    kept: list[list[Emoji]] = []
    for group in (split.training, split.flags):
        keywords: dict[str, dict[str, list[str]]] = {emoji.identifier: {} for emoji in group}
        for language in languages:
            texts = [word for emoji in group for word in emoji.keywords[language]]
            leaks = leak_filter(held_out, texts, language)
            for emoji in group:
                keywords[emoji.identifier][language] = [
                    word for word in emoji.keywords[language] if not leaks(word)
                ]
        kept.append([replace(emoji, keywords=keywords[emoji.identifier]) for emoji in group])
    return kept[0], kept[1]


def keyword_dictionary(emoji: Iterable[Emoji], language: str) -> dict[str, str]:
    """Keywords that translate each other, by co-occurrence on the same emoji.

    A pair (x, e) is taken where each is the other's one best partner by the Dice coefficient
    2·n(x, e) / (n(x) + n(e)), n counting emoji; ties leave both words out.

    Returns:
        folded keyword → folded English keyword.
    """
    source_counts: Counter[str] = Counter()
    target_counts: Counter[str] = Counter()
    together: Counter[tuple[str, str]] = Counter()
    for item in emoji:
        sources = {fold(word) for word in item.keywords[language]}
        targets = {fold(word) for word in item.keywords[ENGLISH]}
        source_counts.update(sources)
        target_counts.update(targets)
        together.update((source, target) for source in sources for target in targets)
    dice = {
        (source, target): 2 * count / (source_counts[source] + target_counts[target])
        for (source, target), count in together.items()
    }
    best_target = _only_best((source, target, value) for (source, target), value in dice.items())
    best_source = _only_best((target, source, value) for (source, target), value in dice.items())
    return {
        source: target
        for source, target in sorted(best_target.items())
        if best_source.get(target) == source
        and together[source, target] >= MIN_TOGETHER
        and dice[source, target] >= MIN_DICE
    }


def _only_best(scored: Iterable[tuple[str, str, float]]) -> dict[str, str]:
    best: dict[str, tuple[float, str | None]] = {}
    for word, partner, value in scored:
        known = best.get(word, (-1.0, None))
        if value > known[0]:
            best[word] = (value, partner)
        elif value == known[0]:
            best[word] = (value, None)
    return {word: partner for word, (_, partner) in best.items() if partner is not None}


def _matched_keywords(emoji: Emoji, language: str, dictionary: Mapping[str, str]) -> list[Row]:
    english = {fold(word): word for word in emoji.keywords[ENGLISH]}
    return [
        (word, english[dictionary[fold(word)]], "cldr-word")
        for word in emoji.keywords[language]
        if dictionary.get(fold(word)) in english
    ]


def bitext_rows(
    training: list[Emoji], flags: list[Emoji], language: str
) -> tuple[list[Row], list[Row]]:
    """Bitext of a language with English: (parallel rows, loose rows), each text once.

    Parallel: names (``cldr-name``), countries' names (``cldr-flag``), words of the dictionary
    (``cldr-word``), and "name; keyword, keyword" with matched keywords (``cldr-entry``). Loose:
    whole keyword lists (``cldr-keywords``) and whole entries (``cldr-full-entry``).
    """
    dictionary = keyword_dictionary(training, language)
    rows = [(e.names[language], e.names[ENGLISH], "cldr-name") for e in training]
    rows += [(e.names[language], e.names[ENGLISH], "cldr-flag") for e in flags]
    loose: list[Row] = []
    for emoji in training:
        matched = _matched_keywords(emoji, language, dictionary)
        rows += matched
        if matched:
            source, target = (", ".join(row[side] for row in matched) for side in (0, 1))
            names = emoji.names
            rows.append(
                (f"{names[language]}; {source}", f"{names[ENGLISH]}; {target}", "cldr-entry")
            )
        lists = [", ".join(emoji.keywords[code]) for code in (language, ENGLISH)]
        if all(lists):
            loose.append((lists[0], lists[1], "cldr-keywords"))
            loose.append((emoji.entry(language), emoji.entry(ENGLISH), "cldr-full-entry"))
    return _once(rows), _once(loose)


def _once(rows: Iterable[Row]) -> list[Row]:
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((fold(row[0]), fold(row[1])), row)
    return list(first.values())


def _span(emoji: Emoji, words: list[str]) -> str:
    """A few of an entry's keywords in a fixed, arbitrary order, as people type queries."""
    order = sorted(
        words,
        key=lambda word: hashlib.sha256(f"{emoji.identifier} {word}".encode()).digest(),
    )
    return " ".join(order[:SPAN_LENGTH])


def teacher_pairs(training: Iterable[Emoji], flags: Iterable[Emoji]) -> list[tuple[str, str]]:
    """English (query, passage): name, keywords, or a few keywords → the emoji's entry.

    Queries that would have two right passages are left out: in a batch one of them would count
    as wrong.
    """
    pairs: list[tuple[str, str]] = []
    for emoji in [*training, *flags]:
        words, entry = list(emoji.keywords[ENGLISH]), emoji.entry(ENGLISH)
        pairs.append((emoji.names[ENGLISH], entry))
        if len(words) > 1:
            pairs.append((", ".join(words), entry))
        if len(words) > SPAN_LENGTH:
            pairs.append((_span(emoji, words), entry))
    passages: dict[str, set[str]] = {}
    for query, passage in pairs:
        passages.setdefault(fold(query), set()).add(passage)
    kept = [pair for pair in pairs if len(passages[fold(pair[0])]) == 1]
    return list({(fold(query), passage): (query, passage) for query, passage in kept}.values())


def drop_leaks(
    rows: Iterable[tuple[str, ...]], split: Split, languages: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """The rows whose first columns, in `languages`, contain no held-out name of that language.

    A second net under `without_leaks`: joining words may spell a held-out name ("mouse" and
    "trap"). Names of other languages are compared as whole texts, since a short name of one
    language is a part of many words of another.
    """
    rows = list(rows)
    held_out = [*split.test, *split.dev]
    whole = {fold(name) for emoji in held_out for name in emoji.names.values()}
    filters: list[Callable[[str], bool]] = [
        leak_filter(held_out, (row[column] for row in rows), language)
        for column, language in enumerate(languages)
    ]
    return [
        row
        for row in rows
        if not any(
            leaks(text) or fold(text) in whole for leaks, text in zip(filters, row, strict=False)
        )
    ]
