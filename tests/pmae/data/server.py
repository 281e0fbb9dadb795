"""A web server on the loopback that misbehaves as told: breaks connections, ignores ranges, sends wrong bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Server:
    """``files``: path -> bytes. ``requests`` collects (path, Range header) of each request."""

    files: dict[str, bytes] = field(default_factory=dict)
    break_after: int | None = None  # bytes of a body sent before the connection is cut
    breaks: int = 0  # how many connections are cut
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)  # answered instead, one per request
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    behavior: Server

    def do_GET(self) -> None:
        server, wanted = self.behavior, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        body = server.files.get(self.path.split("?")[0].lstrip("/"))
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        if body is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        body = body[start:]
        if server.break_after is not None and server.breaks > 0:
            server.breaks -= 1
            body = body[: server.break_after]
        self.wfile.write(body)
        return None

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(**behavior: Any) -> Iterator[Server]:
    """A server of :class:`Server`'s settings, at ``.url`` while the context lasts."""
    server = Server(**behavior)
    handler = type("Handler", (_Handler,), {"behavior": server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
