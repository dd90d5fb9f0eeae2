"""A server that is killed while clients upload, use and delete adapters; what they were told must stay true."""

import hashlib
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.registry.killing import Place
from tests.registry.peft_folder import PeftFolder, config, tensors

from gemlora.engines.fake import FAKE_FACTS
from gemlora.registry.adapters import FILE_NAMES

MODEL = "@cf/google/gemma-7b-it-lora"
ACCOUNT_ID = "0123456789abcdef0123456789abcdef"
API_TOKEN = "soak-token"
READY = frozenset(FILE_NAMES)
State = frozenset[str] | None
"""The files that a finetune has; None: there is no such finetune."""

CLIENTS = 3
NAMES = 4
"""Finetunes of each client."""

RANKS = (1, 8, 32, 128, 256)
"""Of the adapters that clients upload; the largest has half a megabyte."""

LONGEST_LIFE = 0.4
"""Seconds for which a server works, at most, before it is killed."""

READY_SECONDS = 120
COLLECT_SECONDS = 60
"""How long the last server may take to delete everything."""


class Violation(AssertionError):
    """An answer that contradicts what was acknowledged before."""


@dataclass
class Content:
    """An adapter that fits the fake engine, and what the model says with it."""

    files: dict[str, bytes]
    response: str | None = None

    @classmethod
    def write(cls, folder: Path, rank: int) -> "Content":
        weights = tensors(layers=range(FAKE_FACTS.layers), rank=rank, seed=rank, shapes=FAKE_FACTS.modules)
        PeftFolder(config(r=rank), weights).write(folder)
        return cls({name: (folder / name).read_bytes() for name in FILE_NAMES})


@dataclass
class Finetune:
    """What a client knows about one finetune of its own."""

    name: str
    content: Content
    possible: set[State] = field(default_factory=lambda: {None})
    """More than one while an answer is missing."""

    @property
    def state(self) -> State:
        (state,) = self.possible
        return state


@dataclass
class Server:
    """`gemlora serve` with the fake engine, on one place and port for all its lives."""

    place: Place
    port: int

    @contextmanager
    def running(self, grace_seconds: float) -> Iterator[None]:
        """Start it, without any repair before; kill it at the end of the block."""
        with self._log.open("a") as log:
            process = subprocess.Popen(
                [
                    Path(sys.executable).with_name("gemlora"), "serve", "--engine", "fake", "--log-level", "error",
                    "--port", str(self.port), "--data-dir", self.place.data_dir,
                ],
                env=os.environ | self._variables(grace_seconds), stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._wait_until_ready(process)
            yield
        finally:
            process.kill()
            process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check_database(self) -> None:
        if self.place.database_url is None:
            with closing(sqlite3.connect(self.place.data_dir / "gemlora.sqlite")) as connection:
                if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                    raise Violation("the database is damaged")

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise Violation(f"the server did not start by itself: {self._log.read_text()[-2000:]}")

    @property
    def _log(self) -> Path:
        return self.place.data_dir.with_suffix(".log")

    def _variables(self, grace_seconds: float) -> dict[str, str]:
        variables = {
            "ACCOUNT_ID": ACCOUNT_ID,
            "API_TOKEN": API_TOKEN,
            "CACHE_DIR": str(self.place.data_dir / "cache"),
            "COLLECT_SECONDS": "1",
            "BLOB_GRACE_SECONDS": str(grace_seconds),
        }
        if self.place.bucket is not None:
            variables |= {
                "DATABASE_URL": self.place.database_url or "",
                "OBJECT_STORE": f"s3://{self.place.bucket}",
                "OBJECT_STORE_ENDPOINT": self.place.endpoint or "",
                "OBJECT_STORE_REGION": "us-east-1",
                "OBJECT_STORE_ACCESS_KEY": "test-key",
                "OBJECT_STORE_SECRET_KEY": "hidden-secret",
            }
        return {f"GEMLORA_{name}": value for name, value in variables.items()}


class Client:
    """One user, who does one thing at a time to finetunes of its own."""

    def __init__(self, url: str, number: int, contents: list[Content], seed: int) -> None:
        self._random = random.Random(f"{seed}-{number}")
        self._contents = contents
        self._url = f"{url}/client/v4/accounts/{ACCOUNT_ID}/ai"
        self._http = self._connect()
        self._finetunes = [Finetune(f"user-{number}-{index}", contents[0]) for index in range(NAMES)]
        self.counts: Counter[str] = Counter()
        self.violation: Violation | None = None

    def work(self) -> None:
        """Do one thing after the other until the server is gone."""
        try:
            while True:
                self._act(self._random.choice(self._finetunes))
        except httpx.TransportError:
            self.counts["interrupted requests"] += 1
        except Violation as violation:
            self.violation = violation

    def verify(self) -> None:
        """Compare what a new server shows with what this client was told; afterwards it knows everything again."""
        self._http.close()
        self._http = self._connect()
        if self.violation is not None:
            raise self.violation
        listed = {item["name"] for item in self._answer("GET", "/finetunes")["result"]}
        for finetune in self._finetunes:
            state = self._shown(finetune)
            if state not in finetune.possible:
                lost = "lost" if state is None or state < READY else "not what was done"
                raise Violation(f"{lost}: {finetune.name} is {state}, not one of {finetune.possible}")
            if (finetune.name in listed) != (state is not None):
                raise Violation(f"{finetune.name} is listed: {finetune.name in listed}, but shown: {state}")
            finetune.possible = {state}
            for name in state or ():
                self._download(finetune, name)
            if state == READY:
                self._use(finetune)

    def delete_all(self) -> None:
        for finetune in self._finetunes:
            if finetune.state is not None:
                self._delete(finetune)

    def _connect(self) -> httpx.Client:
        return httpx.Client(base_url=self._url, headers={"Authorization": f"Bearer {API_TOKEN}"}, timeout=60)

    def _act(self, finetune: Finetune) -> None:
        if finetune.state is None:
            self._create(finetune)
        elif finetune.state != READY:
            if self._random.random() < 0.1:
                self._delete(finetune)
            else:
                self._upload(finetune)
        else:
            self._random.choice([self._use, self._delete, self._delete, self._upload])(finetune)

    def _create(self, finetune: Finetune) -> None:
        finetune.content = self._random.choice(self._contents)
        self._change(finetune, frozenset(), "POST", "/finetunes", json={"model": MODEL, "name": finetune.name})

    def _upload(self, finetune: Finetune) -> None:
        """One of the two files, which may be there already."""
        assert finetune.state is not None
        name = self._random.choice(FILE_NAMES)
        self._change(
            finetune, finetune.state | {name}, "POST", f"/finetunes/{finetune.name}/finetune-assets",
            data={"file_name": name}, files={"file": finetune.content.files[name]},
        )  # fmt: skip

    def _delete(self, finetune: Finetune) -> None:
        self._change(finetune, None, "DELETE", f"/finetunes/{finetune.name}")

    def _change(self, finetune: Finetune, state: State, method: str, path: str, **options: object) -> None:
        finetune.possible.add(state)
        self._answer(method, path, **options)
        finetune.possible = {state}
        self.counts["acknowledged changes"] += 1

    def _use(self, finetune: Finetune) -> None:
        body = {"prompt": "x", "temperature": 0, "max_tokens": 16, "lora": finetune.name}
        response = self._answer("POST", f"/run/{MODEL}", json=body)["result"]["response"]
        if response != (finetune.content.response or response):
            raise Violation(f"{finetune.name} answers {response!r}, not {finetune.content.response!r}")
        finetune.content.response = response
        self.counts["adapters used"] += 1

    def _download(self, finetune: Finetune, name: str) -> None:
        response = self._http.get(f"/finetunes/{finetune.name}/finetune-assets/{name}")
        expected = hashlib.sha256(finetune.content.files[name]).digest()
        if response.status_code != 200 or hashlib.sha256(response.content).digest() != expected:
            raise Violation(f"torn: {name} of {finetune.name} has other bytes than were uploaded")
        self.counts["files compared"] += 1

    def _shown(self, finetune: Finetune) -> State:
        response = self._http.get(f"/finetunes/{finetune.name}")
        if response.status_code == 404:
            return None
        result = response.raise_for_status().json()["result"]
        if result["ready"] != (frozenset(result["files"]) == READY):
            raise Violation(f"{finetune.name} has {result['files']} and is ready: {result['ready']}")
        return frozenset(result["files"])

    def _answer(self, method: str, path: str, **options: object) -> dict:
        response = self._http.request(method, path, **options)
        if response.status_code != 200 or response.json()["success"] is not True:
            raise Violation(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()


def kill_servers(folder: Path, server: Server, kills: int, seed: int) -> Iterator[Counter[str]]:
    """Kill the server `kills` times; yields the counts so far after each. Raises `Violation`."""
    contents = [Content.write(folder / f"rank-{rank}", rank) for rank in RANKS]
    clients = [Client(server.url, number, contents, seed) for number in range(CLIENTS)]
    moments = random.Random(seed)
    for kill in range(1, kills + 1):
        with server.running(grace_seconds=10):
            for client in clients:
                client.verify()
            threads = [threading.Thread(target=client.work) for client in clients]
            for thread in threads:
                thread.start()
            time.sleep(moments.uniform(0, LONGEST_LIFE))
        for thread in threads:
            thread.join()
        server.check_database()
        yield sum((client.counts for client in clients), Counter({"kills": kill}))
    with server.running(grace_seconds=0):
        for client in clients:
            client.verify()
            client.delete_all()
        wait_until_collected(server.place)


def wait_until_collected(place: Place) -> None:
    deadline = time.monotonic() + COLLECT_SECONDS
    while left := place.files():
        if time.monotonic() > deadline:
            raise Violation(f"blobs are left that nothing refers to: {left}")
        time.sleep(0.2)
