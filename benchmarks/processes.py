"""Servers as child processes: started, waited for, and ended whatever happens."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

PATIENCE = 300.0
"""Seconds that a server may take to get ready."""

STOP_PATIENCE = 20.0


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def until_ready(process: psutil.Popen, url: str) -> Iterator[None]:
    """Runs the block once the URL answers 200; the process and its descendants end with the block."""
    try:
        until = time.monotonic() + PATIENCE
        while not _is_ready(url):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with status {process.returncode}")
            if time.monotonic() > until:
                raise TimeoutError(f"the server was not ready after {PATIENCE:.0f} s")
            time.sleep(0.01)
        yield
    finally:
        stop(process)


def stop(process: psutil.Popen) -> None:
    """End a process and all that descend from it: politely, then not."""
    if process.poll() is not None:
        return
    family = [*process.children(recursive=True), process]
    process.terminate()
    _, alive = psutil.wait_procs(family, STOP_PATIENCE)
    for member in alive:
        member.kill()
    process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
