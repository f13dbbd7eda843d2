"""Serves a small web page for searching (`make_server`): standard library, loopback by default.

Requests are read and answers written by a thread each; the searching between is one thread's, which
takes queries in the order in which they came (`distill.search.query_queue`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import select
import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from distill.errors import InputError
from distill.search.query_queue import QUEUE_SIZE, QueryQueue
from distill.search.searcher import Searcher

_MAX_QUERY = 2000
_MAX_DEPTH = 100
#: Connections beside those of queries that may wait: for the page, and for refusals.
SPARE_CONNECTIONS = 32
#: Seconds in which a client must have sent its request, and then must have taken its answer.
REQUEST_SECONDS = 10.0


def make_server(
    searcher: Searcher, languages: list[str], host: str, port: int, queue_size: int = QUEUE_SIZE
) -> PageServer:
    """A server that answers ``/``, ``/languages`` and ``/search?q=…&language=…&depth=…``.

    The caller calls ``serve_forever``; ``server_address`` tells the port where 0 was asked for.
    Once ``serve_forever`` has returned, ``server_close`` waits until all is answered that was
    accepted.

    Args:
        queue_size: queries that may wait at a time; further ones are answered 503, with the seconds
            after which to try again.

    Raises:
        InputError: the address cannot be listened on.
    """
    try:
        return PageServer((host, port), searcher, languages, queue_size)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: {error.strerror or error}",
            "a free address of this machine",
            "choose another --port, or 0 for any",
        ) from error


class PageServer(ThreadingHTTPServer):
    """A thread for each of so many connections; further ones are told at once to come later."""

    #: Clients that the kernel lets wait for `accept`; beyond the default of 5 they lose seconds.
    request_queue_size = 128
    #: So that `server_close` waits for their answers.
    daemon_threads = False

    def __init__(
        self, address: tuple[str, int], searcher: Searcher, languages: list[str], queue_size: int
    ) -> None:
        self.page = resources.files("distill.search").joinpath("page.html").read_bytes()
        self.host = address[0]
        self.names = {"localhost", self.host.lower(), socket.gethostname().lower()}
        self.facts = {"languages": languages, "documents": len(searcher.documents)}
        self.queries = QueryQueue(searcher.answer, queue_size)
        self._places = threading.BoundedSemaphore(queue_size + SPARE_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_close(self) -> None:
        """Stop listening, and answer what was accepted."""
        super().server_close()
        self.queries.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):  # The client has left, or has sent nothing yet.
            request.setblocking(False)
            request.send(self._busy_response())
            request.recv(1 << 16)  # Closing with bytes unread would take the answer back.
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def busy(self) -> tuple[str, int]:
        """(what a client reads that is turned away, seconds after which to try again)."""
        seconds = self.queries.seconds_until_free
        return f"{self.queries.size} queries wait already: try again in {seconds} s", seconds

    def _busy_response(self) -> bytes:
        """503 for a request that is not read."""
        why, seconds = self.busy()
        content = json.dumps({"error": why}).encode()
        head = [
            "HTTP/1.0 503 Service Unavailable",
            "Content-Type: application/json; charset=utf-8",
            f"Content-Length: {len(content)}",
            f"Retry-After: {seconds}",
        ]
        return "\r\n".join([*head, "", ""]).encode() + content


class _Handler(BaseHTTPRequestHandler):
    """Answers GET; prints nothing."""

    server: PageServer

    def setup(self) -> None:
        self.request.settimeout(REQUEST_SECONDS)  # Of a single read, and of writing an answer.
        super().setup()
        # A client that sends byte after byte would keep any timeout of single reads alive.
        self._deadline = threading.Timer(REQUEST_SECONDS, _cut, (self.connection,))
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        with contextlib.suppress(OSError):  # The client has left.
            super().finish()

    def do_GET(self) -> None:
        self._deadline.cancel()
        if not is_own_name(self.headers.get("Host"), self.server.names):
            # A page of another site whose name was turned to this machine (DNS rebinding).
            own = f"http://{self.server.host}:{self.server.server_port}/"
            self._refuse(f"open this page as {own}", HTTPStatus.MISDIRECTED_REQUEST)
            return
        try:
            address = urlsplit(self.path)
            fields = parse_qs(address.query, max_num_fields=20)
        except ValueError:
            self._refuse("no such address")
            return
        if address.path == "/":
            self._send(self.server.page, "text/html; charset=utf-8")
        elif address.path == "/languages":
            self._send_json(self.server.facts)
        elif address.path == "/search":
            self._search(fields)
        else:
            self._refuse("no such page", HTTPStatus.NOT_FOUND)

    def _search(self, fields: dict[str, list[str]]) -> None:
        query = fields.get("q", [""])[0].strip()
        depth = fields.get("depth", ["5"])[0]
        if not query:
            self._refuse("q=TEXT: no text")
        elif len(query) > _MAX_QUERY:
            self._refuse(f"q=TEXT: too long, {len(query)} characters of at most {_MAX_QUERY}")
        elif not (depth.isascii() and depth.isdigit() and len(depth) <= 9):
            self._refuse(f"depth=NUMBER: 1 to {_MAX_DEPTH}")
        else:
            language = fields.get("language", [""])[0]
            self._answer(query, language, max(1, min(int(depth), _MAX_DEPTH)))

    def _answer(self, query: str, language: str, depth: int) -> None:
        future = self.server.queries.put(query, language, depth, is_wanted=self._is_open)
        if future is None:
            why, seconds = self.server.busy()
            self._refuse(why, HTTPStatus.SERVICE_UNAVAILABLE, retry_after=seconds)
            return
        error = future.exception()
        if error is not None:
            self._refuse("the search failed; its terminal says why", 500)
            raise error
        if future.result() is not None:
            self._send_json(future.result())

    def _is_open(self) -> bool:
        """Whether the client waits for its answer: it has not closed its side."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return not readable or bool(self.connection.recv(1, socket.MSG_PEEK))
        except OSError:  # Reset.
            return False

    def _refuse(self, why: str, status: int = HTTPStatus.BAD_REQUEST, retry_after: int = 0) -> None:
        self._send_json({"error": why}, status, retry_after)

    def _send_json(
        self, value: dict[str, Any], status: int = HTTPStatus.OK, retry_after: int = 0
    ) -> None:
        content = json.dumps(value, ensure_ascii=False).encode(errors="replace")
        self._send(content, "application/json; charset=utf-8", status, retry_after)

    def _send(
        self, content: bytes, kind: str, status: int = HTTPStatus.OK, retry_after: int = 0
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if retry_after:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Queries are nobody else's business."""


def is_own_name(host: str | None, names: set[str]) -> bool:
    """Whether a request's Host header is one that only this machine goes by.

    An address in digits is always: it is no name that another site could turn to this machine.
    """
    if host is None:  # HTTP/1.0; every browser sends one.
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name.rstrip(".") in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # Closed in the meantime.
        connection.shutdown(socket.SHUT_RDWR)
