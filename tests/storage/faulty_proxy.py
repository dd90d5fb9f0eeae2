"""Stands between an object store's client and its server, and answers some requests itself."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

Fault = str | None
"""What happens to one request: `unavailable` (503), `slow down` (429), `drop` (no answer), `stall`; None: it passes."""

STALL_SECONDS = 4
_STATUS = {"unavailable": 503, "slow down": 429}
_OF_CONNECTION = {"connection", "transfer-encoding", "content-length", "date", "server"}


class FaultyProxy:
    """Passes requests on to `target`, except those for which `fault` says otherwise by their number, from 1."""

    def __init__(self, target: str, port: int) -> None:
        self.target = target
        self.endpoint = f"http://127.0.0.1:{port}"
        self.fault: Callable[[int], Fault] = lambda _number: None
        self._lock = threading.Lock()
        self.requests = 0

    def next_fault(self) -> Fault:
        with self._lock:
            self.requests += 1
            return self.fault(self.requests)

    def set(self, fault: Callable[[int], Fault]) -> None:
        """Count anew, with other faults."""
        self.requests, self.fault = 0, fault


@contextmanager
def running_proxy(target: str) -> Iterator[FaultyProxy]:
    """A proxy on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            self.close_connection = True
            if self.raw_requestline and self.parse_request():
                self.answer(self.rfile.read(int(self.headers.get("content-length", "0"))))

        def answer(self, body: bytes) -> None:
            fault = proxy.next_fault()
            if fault == "stall":
                time.sleep(STALL_SECONDS)
            elif fault in _STATUS:
                self.reply(_STATUS[fault], {}, b"<Error><Code>SlowDown</Code></Error>")
            elif fault is None:
                passed = httpx.request(
                    self.command, f"{proxy.target}{self.path}", headers=dict(self.headers), content=body, timeout=30
                )
                self.reply(passed.status_code, dict(passed.headers), passed.content)

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(body))
            for name, value in headers.items():
                if name.lower() not in _OF_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Nothing: tests print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy = FaultyProxy(target, server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
