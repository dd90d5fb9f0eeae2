"""The databases and blob stores that tests run against: SQLite and a folder, PostgreSQL and a bucket.

A test module gets the session's servers by importing `postgres_server` and `s3_server`.
"""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest

from gemlora.storage.s3_objects import open_bucket

START_SECONDS = 30
KEY = "test-key"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class PostgresServer:
    """A private cluster. It refuses to run as root, who therefore lends it another user."""

    binaries: Path
    folder: Path
    port: int
    user: str | None

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.binaries / program, *arguments], check=True, capture_output=True, user=self.user, cwd=self.folder,
        )  # fmt: skip

    def create(self) -> None:
        self.run("initdb", "-D", str(self.folder / "data"), "-U", "gemlora", "-A", "trust", "-E", "UTF8", "--no-locale")

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        log = str(self.folder / "log")
        data = str(self.folder / "data")
        with Path(os.devnull).open("w") as nothing:
            subprocess.run(
                [self.binaries / "pg_ctl", "start", "-w", "-D", data, "-l", log, "-o", options],
                check=True, stdout=nothing, stderr=nothing, user=self.user, cwd=self.folder,
            )  # fmt: skip

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.folder / "data"))

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://gemlora:hidden-password@127.0.0.1:{self.port}/{database}"


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.fail("PostgreSQL is missing: run tests/install")
    return Path(initdb).parent


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="gemlora-postgres-"))
    user = None
    if os.getuid() == 0:
        user = "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    server = PostgresServer(_binaries(), folder, free_port(), user)
    try:
        server.create()
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)


@pytest.fixture
async def postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    async with fresh_database(postgres_server) as url:
        yield url


@asynccontextmanager
async def fresh_database(server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a new database."""
    name = f"test_{uuid.uuid4().hex}"
    await _administer(server, f"CREATE DATABASE {name}")
    yield server.url(name)
    await _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _administer(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url())
    await connection.execute(statement)
    await connection.close()


@dataclass
class S3Server:
    """An S3-compatible server on a port of its own."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                httpx.get(self.endpoint, timeout=1)
                return
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def create_bucket(self, name: str | None = None) -> str:
        name = name or f"bucket-{uuid.uuid4().hex}"
        httpx.put(f"{self.endpoint}/{name}").raise_for_status()
        return name


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@contextmanager
def running_s3() -> Iterator[S3Server]:
    server = S3Server(free_port())
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3_store(s3_server: S3Server) -> object:
    """A fresh bucket, with a prefix."""
    return open_bucket(s3_server.create_bucket(), "blobs", s3_server.endpoint, "us-east-1", KEY, "hidden-secret")
