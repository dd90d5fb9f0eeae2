"""transformers with PEFT's mixed batches (`adapter_names`), in bfloat16 on the processor.

It has no server: one batch after the other is generated, each client's next question in one batch, without HTTP and
without waiting, which favours it.
"""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import msgspec
import psutil
from benchmarks.client import Answer
from benchmarks.peers.peer import Clients, Question
from benchmarks.peft_adapters import Shape, write_peft
from benchmarks.processes import stop
from benchmarks.results import REPOSITORY


class TransformersPeft:
    """The starter GGUF, dequantised by transformers, and so many adapters."""

    name = "transformers + PEFT"

    def __init__(self, folder: Path, model: Path, shape: Shape, adapters: int, rank: int) -> None:
        self._model = model
        self._adapters = [write_peft(folder / str(seed), shape, rank, seed) for seed in range(adapters)]

    @property
    def version(self) -> str:
        """The libraries' versions and the precision."""
        libraries = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft")]
        return f"{', '.join(libraries)}, bfloat16"

    @contextmanager
    def serve(self) -> Iterator["Batches"]:
        """A process that has loaded everything."""
        command = [sys.executable, "-m", "benchmarks.peers.peft_batches", str(self._model), *map(str, self._adapters)]
        process = psutil.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY)
        try:
            process.stdout.readline()
            yield Batches(process)
        finally:
            stop(process)


class Batches:
    """The process that generates batches."""

    def __init__(self, process: psutil.Popen) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process."""
        pid: int = self._process.pid
        return pid

    def ask(self, question: Question) -> Answer:
        """The answer to one question."""
        return self._generate([question])[0]

    def answer(self, clients: Clients) -> list[Answer]:
        """The answers, batch by batch."""
        batches = [[question for question in batch if question] for batch in zip_longest(*clients)]
        return [answer for batch in batches for answer in self._generate(batch)]

    def _generate(self, batch: list[Question]) -> list[Answer]:
        self._process.stdin.write(msgspec.json.encode(batch) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=list[Answer])
