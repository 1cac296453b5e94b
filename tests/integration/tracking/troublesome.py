"""A proxy in front of a tracking server that fails as networks, gateways and servers do."""

from __future__ import annotations

import http.client
import http.server
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import urlsplit


class Fate(Enum):
    """What becomes of one request."""

    PASSED = auto()
    DELAYED = auto()
    DROPPED = auto()  # the connection is closed, and the server never hears of it
    CUT = auto()  # half of what is sent reaches the server, and both connections are closed
    ANSWER_LOST = auto()  # carried out, and the connection is closed
    UNAVAILABLE = auto()
    BROKEN = auto()
    TOO_MANY = auto()
    REFUSED_LOGIN = auto()


_STATUS = {Fate.UNAVAILABLE: 503, Fate.BROKEN: 500, Fate.TOO_MANY: 429, Fate.REFUSED_LOGIN: 401}


@dataclass(frozen=True)
class Request:
    """A request as the proxy sees it."""

    method: str
    path: str
    login: str | None


@contextmanager
def proxy(
    uri: str, fate: Callable[[Request], Fate], on_answer: Callable[[Request], None] = lambda _: None
) -> Iterator[str]:
    """The address of a proxy that asks ``fate`` what to do with each request.

    Args:
        on_answer: is told that the server has answered, before the client hears of it.
    """
    target = urlsplit(uri)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Header and content of an answer are two writes: the second would wait 40 ms for the client's acknowledgement.
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            is_probe = self.path == "/health"
            request = Request(self.command, self.path, self.headers["Authorization"])
            chosen = Fate.PASSED if is_probe else fate(request)
            if chosen in _STATUS:
                self.answer(_STATUS[chosen], b"<html>trouble</html>")
                return
            if chosen is Fate.DELAYED:
                time.sleep(0.2)
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            headers = {key: value for key, value in self.headers.items() if key not in ("Host", "Authorization")}
            if chosen is Fate.CUT:
                connection.putrequest(self.command, self.path)
                for key, value in headers.items():
                    connection.putheader(key, value)
                connection.endheaders(body[: len(body) // 2])
                connection.close()
            elif chosen is not Fate.DROPPED:
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                content = response.read()
                connection.close()
                if not is_probe:
                    on_answer(request)
            if chosen in (Fate.DROPPED, Fate.CUT, Fate.ANSWER_LOST):
                self.close_connection = True
                return
            self.answer(response.status, content, response.getheader("Content-Type") or "")

        def answer(self, status: int, content: bytes, kind: str = "text/html") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - names of the library

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def at_random(share: float, seed: int) -> Callable[[Request], Fate]:
    """Trouble of every kind for a share of all requests."""
    moments = random.Random(seed)
    troubles = [fate for fate in Fate if fate not in (Fate.PASSED, Fate.REFUSED_LOGIN)]
    return lambda _: moments.choice(troubles) if moments.random() < share else Fate.PASSED
