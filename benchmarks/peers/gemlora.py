"""gemlora itself, through its real HTTP server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.client import Call
from benchmarks.gemlora_server import RUN_PATH, TOKEN, add_adapters, name_of, place, server
from benchmarks.peers.peer import HttpServed, Question

from gemlora import __version__
from gemlora.settings import Settings


class Gemlora:
    """A server with so many adapters, added as users add them; its converted weights are the user's."""

    name = "gemlora"

    def __init__(self, folder: Path, adapters: int, rank: int, *, variant: str = "", **settings: Any) -> None:
        """`settings` are the server's, where they are not the defaults; `variant` says what is special about them."""
        if variant:
            self.name = f"{self.name}, {variant}"
        self.settings = place(folder, **{"cache_dir": Settings().cache_dir} | settings)
        add_adapters(self.settings, adapters, rank)

    @property
    def version(self) -> str:
        """Version and quantisation."""
        return f"{__version__}, {self.settings.quantize}"

    @contextmanager
    def serve(self) -> Iterator[HttpServed]:
        """`gemlora serve`."""
        with server(self.settings) as (process, url, _):
            yield HttpServed(process.pid, int(url.rpartition(":")[2]), call)


def call(port: int, question: Question) -> Call:
    """Raw, greedy, streamed. An answer may be shorter: the wire protocol cannot say that ends shall be ignored."""
    body = {"prompt": question.prompt, "raw": True, "temperature": 0, "max_tokens": question.tokens, "stream": True}
    if question.adapter is not None:
        body["lora"] = name_of(question.adapter)
    return Call(port, RUN_PATH, body, "gemlora", {"authorization": f"Bearer {TOKEN}"})
