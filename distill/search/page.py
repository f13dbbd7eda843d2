"""Serves a small web page for searching (`make_server`): standard library, loopback by default."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from distill.errors import InputError
from distill.search.searcher import Searcher

_MAX_QUERY = 2000
_MAX_DEPTH = 100


def make_server(searcher: Searcher, languages: list[str], host: str, port: int) -> Any:
    """A server that answers ``/``, ``/languages`` and ``/search?q=…&language=…&depth=…``.

    The caller calls ``serve_forever``; ``server_address`` tells the port where 0 was asked for.

    Raises:
        InputError: the address cannot be listened on.
    """
    page = resources.files("distill.search").joinpath("page.html").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        """Answers GET; prints nothing."""

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path == "/":
                self._send(page, "text/html; charset=utf-8")
            elif address.path == "/languages":
                self._send_json({"languages": languages, "documents": len(searcher.documents)})
            elif address.path == "/search":
                self._search(parse_qs(address.query))
            else:
                self._send_json({"error": "no such page"}, HTTPStatus.NOT_FOUND)

        def _search(self, fields: dict[str, list[str]]) -> None:
            query = fields.get("q", [""])[0].strip()
            depth = fields.get("depth", ["5"])[0]
            if not query or len(query) > _MAX_QUERY or not depth.isdecimal():
                self._send_json({"error": "q=TEXT and depth=NUMBER"}, HTTPStatus.BAD_REQUEST)
                return
            language = fields.get("language", [""])[0]
            wanted = max(1, min(int(depth), _MAX_DEPTH))
            self._send_json(searcher.answer(query, language, wanted))

        def _send_json(self, value: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
            content = json.dumps(value, ensure_ascii=False).encode()
            self._send(content, "application/json; charset=utf-8", status)

        def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Queries are nobody else's business."""

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: {error.strerror or error}",
            "a free address of this machine",
            "choose another --port, or 0 for any",
        ) from error
