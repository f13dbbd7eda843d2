"""The search page before clients that mean no good, or leave."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest

from distill.search import page as module
from distill.search.__main__ import build_searcher, parse_arguments
from distill.search.page import is_own_name, make_server


@pytest.fixture
def port(searcher):
    server = make_server(searcher, [""], "127.0.0.1", 0, queue_size=8)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def ask(port, *lines):
    """(status, JSON) of a request written as it stands."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while block := client.recv(1 << 16):
            answer += block
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("localhost.:1", True),
        ("[::1]:8080", True),
        ("192.168.1.7:80", True),
        ("given.example", True),
        ("attacker.example", False),
        ("127.0.0.1.attacker.example:8080", False),
        ("localhost.attacker.example", False),
        ("[", False),
        ("", False),
        (None, True),
    ],
)
def test_only_names_of_this_machine_are_answered(host, is_own):
    assert is_own_name(host, {"localhost", "given.example"}) == is_own


def test_another_sites_name_is_refused(port):
    for path in ("/", "/languages", "/search?q=bird"):
        status, body = ask(port, f"GET {path} HTTP/1.1", "Host: attacker.example:8080")
        assert status == 421
        assert "bird" not in body.replace("http", "")
    assert ask(port, "GET /languages HTTP/1.1", f"Host: localhost:{port}")[0] == 200


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://[x/", "no such address"),
        ("https://[::z/?q=a", "no such address"),
        ("/search?" + "&".join(["q=a"] * 50), "no such address"),
        ("/search?q=" + "a" * 2001, "too long"),
        ("/search?q=a&depth=" + "9" * 5000, "depth=NUMBER"),
        ("/search?q=a&depth=%D9%A3", "depth=NUMBER"),
        ("/search?q=%20", "no text"),
    ],
)
def test_malformed_requests_get_400_and_the_reason(port, target, why, capsys):
    status, body = ask(port, f"GET {target} HTTP/1.1", "Host: localhost")
    assert status == 400
    assert why in json.loads(body)["error"]
    assert ask(port, "GET /search?q=bird&depth=1 HTTP/1.1", "Host: localhost")[0] == 200
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_half_open_requests_are_bounded_and_end(port, monkeypatch, capsys):
    monkeypatch.setattr(module, "REQUEST_SECONDS", 2.0)
    before = threading.active_count()
    clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(100)]
    try:
        for client in clients:
            with contextlib.suppress(ConnectionError):  # Closed already, as one too many.
                client.sendall(b"GET / HTTP/1.1\r\nHost: lo")
        # A handler and its deadline for each of the connections that have a place.
        assert threading.active_count() - before <= 2 * (8 + module.SPARE_CONNECTIONS) + 1
        for client in clients:
            with contextlib.suppress(ConnectionResetError):  # Closed, one way or the other.
                assert client.recv(12) in (b"", b"HTTP/1.0 503")
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: ask(port, "GET /languages HTTP/1.1", "Host: localhost")[0] == 200)
    assert capsys.readouterr().err == ""


def wait_until(holds, attempts=200):
    for _ in range(attempts):
        try:
            if holds():
                return
        except (ConnectionError, IndexError):  # No place yet.
            pass
        time.sleep(0.1)
    raise AssertionError("never held")


def test_a_client_that_leaves_is_not_talked_about(searcher, monkeypatch, request, capsys):
    asked, left = threading.Event(), threading.Event()

    def answer(query, language, depth):
        asked.set()
        left.wait(60)
        return {"text": "x" * (8 << 20)}

    monkeypatch.setattr(searcher, "answer", answer)
    port = request.getfixturevalue("port")
    before = threading.active_count()
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(b"GET /search?q=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert asked.wait(60)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    left.set()
    wait_until(lambda: threading.active_count() == before + 1)  # Only the worker is left.
    assert ask(port, "GET /languages HTTP/1.1", "Host: localhost")[0] == 200
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("count", [1, 3, 12])
def test_plaid_of_few_documents_is_exact(tmp_path, tiny_world, count, capsys, monkeypatch):
    """PLAID's clusters need tokens; with few documents nothing of PyLate is touched."""
    monkeypatch.setattr("distill.search.index.require_pylate", lambda: None)
    rows = [{"id": str(number), "text": f"red bird {number}"} for number in range(count)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [str(tmp_path), "--teacher", str(tiny_world.teacher), "--engine", "plaid"]
    searcher, _ = build_searcher(parse_arguments(options))
    assert searcher.index.name == "exact"
    assert f"{count} documents are too few for PLAID" in capsys.readouterr().err
    assert len(searcher.search("red bird", searcher.teacher, depth=50)) == count
