"""A front before the dashboard, for what a network and a head do to answers when all goes wrong."""

from __future__ import annotations

import http.client
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What the dashboard says, or what is made of it."""

    status: int
    body: bytes
    content_type: str = "application/json"


#: Asks the dashboard; what stands in for its answer.
Way = Callable[[Callable[[], Answer]], Answer]


@dataclass
class Front:
    """Hands requests on, and answers.

    Attributes:
        on_submit, on_list: what becomes of a request for a new job, and for the list of jobs; None: handed on.
        num_misled: how many answers were not the dashboard's own.
    """

    target: str
    address: str = ""
    on_submit: Way | None = None
    on_list: Way | None = None
    num_misled: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        way = None
        if path.rstrip("/") == "/api/jobs":
            way = self.on_submit if method == "POST" else self.on_list
        if way is None:
            return self._ask(method, path, body, headers)
        with self._lock:
            self.num_misled += 1
        return way(lambda: self._ask(method, path, body, headers))

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.target).netloc, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read(), response.headers.get("Content-Type", ""))
        finally:
            connection.close()


@contextmanager
def front_of(target: str) -> Iterator[Front]:
    """A front at an address of its own, on loopback."""
    front = Front(target)

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            answer = front.answer(self.command, self.path, body, kept)
            try:
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.content_type)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
            except OSError:
                self.close_connection = True  # whoever asked is dead by now

        do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
