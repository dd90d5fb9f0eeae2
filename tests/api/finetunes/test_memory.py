"""Uploads and downloads of large files need little memory, however large the file is. The server is a process."""

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.api.parts import MODEL
from tests.api.real_parts import FINETUNES
from tests.registry.peft_folder import config, tensor_name

from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE

LAYERS, WIDTH, RANK = 12, 4096, 256
MATRIX = RANK * WIDTH * 4
"""Bytes of each of the two matrices of a layer."""
BOUND = 32 << 20
"""Bytes by which the server may grow."""

SERVER = """
import asyncio, sys
from pathlib import Path
import msgspec
from tests.api.real_parts import FACTS, real_parts
from tests.api.real_server import RealServer

LAYERS, WIDTH = map(int, sys.argv[2:])

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))

async def main():
    facts = msgspec.structs.replace(FACTS, layers=LAYERS, modules=FACTS.modules | {"q_proj": (WIDTH, WIDTH)})
    async with real_parts(Path(sys.argv[1]), largest=1 << 30, facts=facts) as parts:
        async with RealServer.running(parts) as server:
            print(server.port, flush=True)
            while await asyncio.to_thread(sys.stdin.readline):
                print(peak(), flush=True)

asyncio.run(main())
"""


@dataclass
class Served:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    client: httpx.Client

    def peak(self) -> int:
        """The most bytes of memory that the process has ever had."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    arguments = [sys.executable, "-c", SERVER, str(folder), str(LAYERS), str(WIDTH)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            with httpx.Client(base_url=url, headers={"authorization": "Bearer alice"}, timeout=60) as client:
                yield Served(process, client)
        finally:
            process.kill()


def weights() -> Iterator[bytes]:
    """A safetensors file that fits, a piece at a time."""
    names = [tensor_name(layer, "q_proj", side) for layer in range(LAYERS) for side in "AB"]
    shapes = {"A": [RANK, WIDTH], "B": [WIDTH, RANK]}
    records = {
        name: {
            "dtype": "F32",
            "shape": shapes[name[-len("A.weight")]],
            "data_offsets": [index * MATRIX, (index + 1) * MATRIX],
        }
        for index, name in enumerate(names)
    }
    header = json.dumps(records).encode()
    yield struct.pack("<Q", len(header)) + header
    for index in range(len(names)):
        yield struct.pack("<f", 1 + index) * (MATRIX // 4)


def form(content: Iterator[bytes]) -> Iterator[bytes]:
    """The form of the weights, the file first."""
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    yield from content
    yield f'\r\n--b\r\nContent-Disposition: form-data; name="file_name"\r\n\r\n{WEIGHTS_FILE}\r\n--b--\r\n'.encode()


def test_the_memory_of_the_server_does_not_grow_with_the_file(tmp_path: Path) -> None:
    asset = f"{FINETUNES}/large/finetune-assets"
    with served(tmp_path / "data") as server:
        client = server.client
        client.post(FINETUNES, json={"model": MODEL, "name": "large"}).raise_for_status()
        settings = json.dumps(config(r=RANK, target_modules=["q_proj"]))
        client.post(asset, data={"file_name": CONFIG_FILE}, files={"file": settings}).raise_for_status()
        before = server.peak()

        uploaded = client.post(
            asset, content=form(weights()), headers={"content-type": "multipart/form-data; boundary=b"}
        )
        after_upload = server.peak()
        digest, size = hashlib.sha256(), 0
        with client.stream("GET", f"{asset}/{WEIGHTS_FILE}") as download:
            for chunk in download.iter_bytes():
                digest.update(chunk)
                size += len(chunk)
        after_download = server.peak()

    assert uploaded.json()["result"]["ready"], uploaded.text
    assert size == uploaded.json()["result"]["size"] > 96 << 20
    assert digest.hexdigest() == hashlib.sha256(b"".join(weights())).hexdigest()
    assert after_upload - before < BOUND
    assert after_download - before < BOUND
