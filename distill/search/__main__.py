"""Searches English documents in any language: ``distill search DOCUMENTS [QUERY …]``."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from distill.disks import path_argument
from distill.distributed.process import prepare_process
from distill.errors import InputError, one_line_errors, printable
from distill.languages import parse_pair
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.search.query_queue import QUEUE_SIZE

if TYPE_CHECKING:
    from distill.search.page import PageServer
    from distill.search.searcher import Hit, Searcher

#: Controls that JSON leaves as they are, and some terminals act on.
_CONTROL = re.compile("[\x7f-\x9f]")
_BOLD, _DIM, _PLAIN = "\x1b[1;33m", "\x1b[2m", "\x1b[0m"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="distill search", description=__doc__)
    add = parser.add_argument
    add("documents", type=path_argument, help="folder of texts, JSONL file, or collection")
    add("query", nargs="*", help="queries; without any, lines of standard input")
    add("--run", type=path_argument, help="training run: its teacher and its student")
    add("--teacher", help="encoder of the documents, in any layout")
    add(
        "--student",
        action="append",
        default=[],
        metavar="[LANGUAGE=]DIRECTORY",
        help="query encoder, for one language or for all; may be repeated",
    )
    add("--language", default="", help="language of the queries, which chooses the student")
    add("--depth", type=int, default=5, help="documents per query (default 5)")
    add("--passages", metavar="WORDS:STRIDE", help="cut long documents, for example 150:75")
    add("--cache", type=path_argument, help="directory that keeps the documents' embeddings")
    add("--engine", choices=("exact", "plaid"), default="exact", help="plaid needs PyLate")
    add("--json", action="store_true", help="one JSON object per query")
    add("--serve", action="store_true", help="a web page instead of the terminal")
    add("--host", default="127.0.0.1", help="address to serve on (default: this machine only)")
    add("--port", type=int, default=8080, help="port to serve on; 0 for any")
    add(
        "--queue",
        type=int,
        default=QUEUE_SIZE,
        metavar="N",
        help=f"queries that may wait for --serve's answer (default {QUEUE_SIZE}); more get a 503",
    )
    return parser.parse_intermixed_args(arguments)


def _sources(options: argparse.Namespace) -> tuple[str, dict[str, str], list[str]]:
    """(teacher, language → student, languages to choose from)."""
    teacher, students, languages = options.teacher, {}, []
    if options.run is not None:
        recipe = load_settings(Recipe, options.run / "config.yaml")
        if not (options.run / "student").is_dir():
            raise InputError(f"--run {options.run}: no student/", "a finished run", "let it finish")
        teacher = teacher or recipe.teacher
        students[""] = str(options.run / "student")
        languages = [parse_pair(code).source for code in recipe.pairs]
    for text in options.student:
        language, separator, directory = text.partition("=")
        if not separator:
            language, directory = "", text
        students[language] = directory
        if language:
            languages.append(language)
    if not teacher:
        raise InputError(
            "neither --run nor --teacher", "the encoder of the documents", "add one of them"
        )
    if options.language and students and "" not in students and options.language not in students:
        raise InputError(
            f"--language {options.language}",
            f"one of {', '.join(students)}",
            "add --student LANGUAGE=DIRECTORY",
        )
    return teacher, students, list(dict.fromkeys(languages)) or [""]


def build_searcher(options: argparse.Namespace) -> tuple[Searcher, list[str]]:
    """Documents, encoders and index from the options; and the languages to choose from."""
    from distill.evaluation.maxp import PassageSettings
    from distill.search.documents import read_documents
    from distill.search.index import require_pylate
    from distill.search.searcher import Searcher, load_query_encoders

    if options.depth < 1:
        raise InputError(f"--depth {options.depth}", "1 or more", "raise it")
    if options.queue < 1:
        raise InputError(f"--queue {options.queue}", "1 or more", "raise it")
    if options.engine == "plaid":
        require_pylate()
    passages = None
    if options.passages:
        words, _, stride = options.passages.partition(":")
        if not (words.isdecimal() and stride.isdecimal()):
            raise InputError(f"--passages {options.passages}", "WORDS:STRIDE", "write 150:75")
        passages = PassageSettings(num_words=int(words), stride=int(stride))
    teacher_source, sources, languages = _sources(options)
    documents = read_documents(options.documents, passages)
    teacher, students, notes = load_query_encoders(teacher_source, sources)
    print("".join(f"note: {printable(note)}\n" for note in notes), end="", file=sys.stderr)
    searcher = Searcher(
        documents,
        teacher,
        students,
        cache=options.cache,
        engine=options.engine,
    )
    return searcher, languages


def run(options: argparse.Namespace) -> None:
    """Search in the terminal, or serve the page until interrupted."""
    searcher, languages = build_searcher(options)
    if options.serve:
        from distill.search.page import make_server

        serve(make_server(searcher, languages, options.host, options.port, options.queue))
        return
    if options.language and "" in searcher.students and options.language not in languages:
        print(f"note: the student was trained for {', '.join(languages)}", file=sys.stderr)
    encoder = searcher.student_for(options.language) or searcher.teacher
    for query in options.query or _typed():
        if options.json:
            answer = searcher.answer(query, options.language, options.depth)
            print(_CONTROL.sub(_escaped, json.dumps(answer, ensure_ascii=False)), flush=True)
        else:
            print(f"{printable(query)}  ({printable(encoder.name)})")
            hits = searcher.search(query, encoder, options.depth)
            print("\n".join(format_hit(hit, sys.stdout.isatty()) for hit in hits), flush=True)


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _typed() -> Iterable[str]:
    """Lines of standard input that are not empty."""
    if sys.stdin.isatty():
        print("type a query; an empty line ends", file=sys.stderr)
    for line in sys.stdin:
        if line.strip():
            yield line.strip()
        elif sys.stdin.isatty():
            return


def format_hit(hit: Hit, colours: bool) -> str:
    """Rank, score, name and the text with what matched in colour, or in square brackets."""
    from distill.search.matching import marked_parts

    bold, dim, plain = (_BOLD, _DIM, _PLAIN) if colours else ("[", "", "]")
    parts = [
        (printable(part, keep="\n\t"), similarity > 0 and part.strip())
        for part, similarity in marked_parts(hit.text, hit.matches)
    ]
    text = "".join(f"{bold}{part}{plain}" if marked else part for part, marked in parts)
    end = plain if colours else ""
    return f"{hit.rank:>3}  {hit.score:7.3f}  {dim}{printable(hit.name)}{end}  {text}"


def serve(server: PageServer) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was accepted; a second signal ends at once.

    Call it in the main thread, which alone gets signals.
    """

    def stop(number: int, frame: object) -> None:
        for name in before:
            signal.signal(name, signal.SIG_DFL)
        # `shutdown` waits for this thread's own loop.
        threading.Thread(target=server.shutdown).start()

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    shown, chosen = server.server_address[:2]
    print(f"http://{shown!s}:{chosen}/  (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()
        for name, handler in before.items():
            signal.signal(name, handler)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    prepare_process()
    with one_line_errors():
        run(options)


if __name__ == "__main__":
    main()
