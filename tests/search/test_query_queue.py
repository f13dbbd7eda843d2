"""Many queries at once, over real sockets: all answered in order, or told to come later."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from distill.search.__main__ import main, serve
from distill.search.page import PageServer, make_server

COLOURS = ["red", "green", "blue", "white", "black", "golden"]
NOUNS = ["river", "stone", "bird", "house", "tree", "road", "boat", "fire", "moon"]
#: Fifty queries, and the one document that has both words.
ASKED = [f"{colour} {noun}" for colour in COLOURS for noun in NOUNS][:50]


class Gated:
    """The real searcher, whose worker waits at each query until the gate opens."""

    def __init__(self, searcher):
        self._searcher = searcher
        self.documents = searcher.documents
        self.gate, self.answered = threading.Event(), []

    def answer(self, query, language, depth):
        assert self.gate.wait(60)
        self.answered.append(query)
        return self._searcher.answer(query, language, depth)


@pytest.fixture
def gated(searcher) -> Iterator[Gated]:
    gated = Gated(searcher)
    yield gated
    gated.gate.set()


@contextmanager
def serving(searcher, queue_size: int) -> Iterator[PageServer]:
    server = make_server(searcher, ["sw"], "127.0.0.1", 0, queue_size)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(server: PageServer, query: str) -> tuple[int, dict, str | None]:
    """(status, JSON, Retry-After) of a query without a student's language."""
    fields = urllib.parse.urlencode({"q": query, "depth": 1, "language": "xx"})
    address = f"http://127.0.0.1:{server.server_port}/search?{fields}"
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, json.load(answer), None
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers["Retry-After"]


def found(answer: dict) -> str:
    return answer["systems"]["teacher, zero-shot"][0]["text"]


def waiting(server: PageServer) -> int:
    """Queries that wait or are worked on."""
    return server.queries.size - server.queries._places._value


def wait_until(holds) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("never held")


def test_fifty_at_once_are_all_answered_rightly(searcher):
    with serving(searcher, 64) as server, ThreadPoolExecutor(len(ASKED)) as clients:
        start = threading.Barrier(len(ASKED))

        def one(query: str) -> tuple[int, dict, str | None]:
            start.wait(60)
            return ask(server, query)

        answers = list(clients.map(one, ASKED))
    assert [status for status, _, _ in answers] == [200] * len(ASKED)
    assert [found(answer) for _, answer, _ in answers] == [f"{query} and fire" for query in ASKED]


def test_answers_come_in_the_order_of_arrival(gated):
    asked = ASKED[:12]
    with serving(gated, 64) as server, ThreadPoolExecutor(len(asked)) as clients:
        answers = []
        for number, query in enumerate(asked, 1):
            answers.append(clients.submit(ask, server, query))
            wait_until(lambda number=number: waiting(server) == number)
        gated.gate.set()
        assert [answer.result()[0] for answer in answers] == [200] * len(asked)
    assert gated.answered == asked


def test_beyond_the_bound_it_is_503_and_when_to_try_again(gated):
    with serving(gated, 3) as server, ThreadPoolExecutor(20) as clients:
        accepted = [clients.submit(ask, server, query) for query in ASKED[:3]]
        wait_until(lambda: waiting(server) == 3)
        # Turned away at once, while those that were taken in wait; other pages are served.
        for status, answer, seconds in clients.map(lambda query: ask(server, query), ASKED[3:20]):
            assert (status, seconds) == (503, "1")
            assert answer == {"error": "3 queries wait already: try again in 1 s"}
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=60) as page:
            assert page.status == 200
        gated.gate.set()
        assert [found(answer.result()[1]) for answer in accepted] == [
            f"{query} and fire" for query in ASKED[:3]
        ]
        # There is room again.
        wait_until(lambda: waiting(server) == 0)
        assert ask(server, ASKED[9])[0] == 200


def connect(server: PageServer, query: str = "") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.server_port), timeout=60)
    if query:
        target = f"/search?q={urllib.parse.quote(query)}&language=xx"
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


def test_connections_beyond_all_places_are_told_so_too(gated, monkeypatch):
    monkeypatch.setattr("distill.search.page.SPARE_CONNECTIONS", 1)
    with (
        serving(gated, 1) as server,
        # A connection that says nothing has the second place: nobody reads a third request.
        connect(server, ASKED[0]) as first,
        connect(server),
        connect(server) as third,
    ):
        answer = third.recv(1 << 16).decode()
        assert answer.startswith("HTTP/1.0 503 ")
        assert "Retry-After: 1\r\n" in answer
        assert json.loads(answer.partition("\r\n\r\n")[2])["error"].startswith("1 queries wait")
        gated.gate.set()
        assert first.recv(1 << 16).startswith(b"HTTP/1.0 200 ")


def test_clients_that_left_cost_no_search(gated):
    with serving(gated, 64) as server, ThreadPoolExecutor(2) as clients:
        first = clients.submit(ask, server, ASKED[0])
        wait_until(lambda: waiting(server) == 1)
        for number, query in enumerate(ASKED[1:6], 2):
            client = connect(server, query)
            wait_until(lambda number=number: waiting(server) == number)
            if number % 2:  # By a reset, or properly.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            client.close()
        last = clients.submit(ask, server, ASKED[6])
        wait_until(lambda: waiting(server) == 7)
        gated.gate.set()
        assert [found(answer.result()[1]) for answer in (first, last)] == [
            f"{query} and fire" for query in (ASKED[0], ASKED[6])
        ]
    assert gated.answered == [ASKED[0], ASKED[6]]


def test_a_client_that_does_not_read_holds_nobody_up(searcher, monkeypatch):
    monkeypatch.setattr("distill.search.page.REQUEST_SECONDS", 2.0)

    class Long:
        documents = searcher.documents

        def answer(self, query, language, depth):
            more = {"text": "x" * (64 << 20)} if query == "long" else {}
            return {**searcher.answer(query, language, depth), **more}

    before = threading.active_count()
    with serving(Long(), 8) as server, connect(server, "long"):
        assert ask(server, ASKED[0])[0] == 200
        # Its thread ends, too: what is left is the server's and the worker's.
        wait_until(lambda: threading.active_count() == before + 2)


def test_a_search_that_fails_is_answered_and_told_in_the_terminal(searcher, capsys):
    class Broken:
        documents = searcher.documents

        def answer(self, query, language, depth):
            raise RuntimeError("no such token")

    with serving(Broken(), 8) as server:
        for _ in range(2):
            status, answer, _ = ask(server, "red")
            assert status == 500
            assert answer == {"error": "the search failed; its terminal says why"}
    assert "RuntimeError: no such token" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_after_what_was_accepted(name, gated, capsys):
    number = signal.Signals[name]
    before = signal.getsignal(number)
    server = make_server(gated, ["sw"], "127.0.0.1", 0)

    def drive() -> list:
        with ThreadPoolExecutor(9) as clients:
            answers = [clients.submit(ask, server, query) for query in ASKED[:9]]
            wait_until(lambda: waiting(server) == 9)
            os.kill(os.getpid(), number)
            # No new connection is taken from here on; the gate opens afterwards.
            wait_until(lambda: server.fileno() == -1)
            gated.gate.set()
            return [answer.result() for answer in answers]

    with ThreadPoolExecutor(1) as other:
        answers = other.submit(drive)
        serve(server)
        assert sorted(found(answer) for _, answer, _ in answers.result()) == sorted(
            f"{query} and fire" for query in ASKED[:9]
        )
    assert len(gated.answered) == 9
    assert f"http://127.0.0.1:{server.server_port}/" in capsys.readouterr().out
    assert signal.getsignal(number) is before


def test_a_queue_of_nothing_is_refused(tiny_world, documents, capsys):
    with pytest.raises(SystemExit):
        main([str(documents), "--teacher", str(tiny_world.teacher), "--serve", "--queue", "0"])
    assert "--queue 0, expected 1 or more" in capsys.readouterr().err
