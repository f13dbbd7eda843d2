"""A small web page for searching: standard library only, loopback unless told otherwise."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from distill.errors import InputError
from distill.search.searcher import Searcher

_MAX_QUERY = 2000
_MAX_DEPTH = 100
#: Connections at a time, and seconds in which one must have sent its request.
MAX_CONNECTIONS = 32
REQUEST_SECONDS = 10.0


def make_server(searcher: Searcher, languages: list[str], host: str, port: int) -> Any:
    """A server that answers ``/``, ``/languages`` and ``/search?q=…&language=…&depth=…``.

    The caller calls ``serve_forever``; ``server_address`` tells the port where 0 was asked for.

    Raises:
        InputError: the address cannot be listened on.
    """
    page = resources.files("distill.search").joinpath("page.html").read_bytes()
    names = {"localhost", host.lower(), socket.gethostname().lower()}

    class Handler(BaseHTTPRequestHandler):
        """Answers GET; prints nothing."""

        def setup(self) -> None:
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
            if not is_own_name(self.headers.get("Host"), names):
                # A page of another site whose name was turned to this machine (DNS rebinding).
                self._refuse(
                    f"open this page as http://{host}:{self.server.server_address[1]}/", 421
                )
                return
            try:
                address = urlsplit(self.path)
                fields = parse_qs(address.query, max_num_fields=20)
            except ValueError:
                self._refuse("no such address")
                return
            if address.path == "/":
                self._send(page, "text/html; charset=utf-8")
            elif address.path == "/languages":
                self._send_json({"languages": languages, "documents": len(searcher.documents)})
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
                wanted = max(1, min(int(depth), _MAX_DEPTH))
                self._send_json(searcher.answer(query, language, wanted))

        def _refuse(self, why: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
            self._send_json({"error": why}, status)

        def _send_json(self, value: dict[str, Any], status: int = HTTPStatus.OK) -> None:
            content = json.dumps(value, ensure_ascii=False).encode(errors="replace")
            self._send(content, "application/json; charset=utf-8", status)

        def _send(self, content: bytes, kind: str, status: int = HTTPStatus.OK) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Queries are nobody else's business."""

    try:
        return _BoundedServer((host, port), Handler)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: {error.strerror or error}",
            "a free address of this machine",
            "choose another --port, or 0 for any",
        ) from error


class _BoundedServer(ThreadingHTTPServer):
    """A thread for each of at most `MAX_CONNECTIONS` connections; further ones are closed."""

    def __init__(self, *arguments: Any) -> None:
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


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
