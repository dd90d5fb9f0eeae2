"""Uploads and downloads on a real socket: clients that pause, leave, lie about sizes or were refused early."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update
from tests.api.parts import ALICE
from tests.api.real_parts import FINETUNES, RealParts, create, ready, real_parts, upload
from tests.api.real_server import RealServer, eventually, leave

from gemlora.api.limits import Limits
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.storage.tables import adapters

IDLE_SECONDS = 0.3
LARGEST = 4 << 20
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file_name"\r\n\r\nadapter_model.safetensors\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
)
END = b"\r\n--b--\r\n"


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[RealParts]:
    async with real_parts(tmp_path / "data", Limits(body_idle_seconds=IDLE_SECONDS), LARGEST) as parts:
        yield parts


@pytest.fixture
async def server(parts: RealParts, client: httpx.AsyncClient) -> AsyncIterator[RealServer]:
    """A server with the unfinished finetune `poet`."""
    await create(client, "poet")
    async with RealServer.running(parts) as server:
        yield server


def head(length: int, finetune: str = "poet", token: str = "alice") -> bytes:
    return (
        f"POST {FINETUNES}/{finetune}/finetune-assets HTTP/1.1\r\nHost: gemlora\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def unfinished(parts: RealParts) -> int:
    """Bytes of files that hold an upload."""
    return sum(path.stat().st_size for path in parts.stored())


@pytest.mark.parametrize("way", ["reset", "close", "half-close"])
async def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    server: RealServer, parts: RealParts, client: httpx.AsyncClient, way: str
) -> None:
    async with server.connection() as (_reader, writer):
        writer.write(head(LARGEST) + FORM + bytes(LARGEST // 2))
        await writer.drain()
        await eventually(lambda: unfinished(parts) > 0)
        leave(writer, way)
        await eventually(lambda: parts.stored() == [])

    assert (await client.get(f"{FINETUNES}/poet")).json()["result"]["files"] == []
    assert not [line for line in parts.log_lines if line["level"] == "error"]


async def test_a_client_that_pauses_for_too_long_is_told_so_and_leaves_nothing(
    server: RealServer, parts: RealParts
) -> None:
    answer = await server.exchange(head(LARGEST) + FORM + bytes(100_000))

    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":3007' in answer
    assert b"connection: close" in answer
    await eventually(lambda: parts.stored() == [])


async def test_a_slow_client_that_never_pauses_for_long_is_waited_for(
    server: RealServer, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    form = FORM.replace(b"adapter_model.safetensors", b"adapter_config.json") + files[CONFIG_FILE] + END
    async with server.connection() as (reader, writer):
        writer.write(head(len(form)))
        for start in range(0, len(form), len(form) // 7):
            writer.write(form[start : start + len(form) // 7])
            await asyncio.sleep(IDLE_SECONDS / 5)
        answer = await reader.readuntil(b"}")

    assert answer.startswith(b"HTTP/1.1 200")
    assert (await client.get(f"{FINETUNES}/poet")).json()["result"]["files"] == [CONFIG_FILE]


@pytest.mark.parametrize(
    ("finetune", "token", "status", "code"),
    [("nobody-s", "alice", b"404", b"3037"), ("poet", "wrong", b"401", b"10000"), ("poet", "bob", b"403", b"10000")],
)
async def test_who_is_refused_before_the_form_is_read_gets_the_answer_and_not_a_reset(
    server: RealServer, parts: RealParts, finetune: str, token: str, status: bytes, code: bytes
) -> None:
    form = FORM + bytes(LARGEST) + END

    answer = await server.exchange(head(len(form), finetune, token) + form)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b'"code":' + code in answer
    assert parts.stored() == []


@pytest.mark.parametrize("declared", [True, False])
async def test_a_file_that_is_too_large_is_refused_in_words_and_not_with_a_reset(
    server: RealServer, parts: RealParts, declared: bool
) -> None:
    form = FORM + bytes(LARGEST + 1) + END
    if declared:
        request = head(len(form)) + form
    else:
        chunked = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        request = chunked + b"%x\r\n" % len(form) + form + b"\r\n0\r\n\r\n"

    answer = await server.exchange(request)

    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"code":5004,"message":"file: is larger than %d bytes"' % LARGEST in answer
    assert parts.stored() == []


async def enlarge(parts: RealParts) -> None:
    """Let the finetune's stored weights have 8 MiB, more than sockets hold."""
    async with parts.database.writing() as connection:
        await connection.execute(update(adapters).values(weights_blob=parts.objects.put(bytes(8 << 20))))


def getting(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: gemlora\r\nAuthorization: Bearer alice\r\n\r\n".encode()


async def test_a_reader_that_stalls_during_a_download_is_dropped(tmp_path: Path, files: dict[str, bytes]) -> None:
    async with real_parts(tmp_path / "stalled", Limits(write_stall_seconds=0.2)) as parts:
        async with parts.client() as client:
            await ready(client, "poet", files)
        await enlarge(parts)
        async with RealServer.running(parts) as server, server.connection() as (_reader, writer):
            writer.write(getting(f"{FINETUNES}/poet/finetune-assets/{WEIGHTS_FILE}"))
            await eventually(lambda: any(line["event"] == "stream stalled" for line in parts.log_lines), 10)


async def test_much_of_a_download_may_wait_in_the_kernel_but_only_of_the_download(
    server: RealServer, parts: RealParts, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    await ready(client, "large", files)
    await enlarge(parts)

    def waiting() -> list[int]:
        connections = [
            connection.transport.get_extra_info("socket") for connection in server.server.server_state.connections
        ]
        return [connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for connection in connections]

    async with server.connection() as (reader, writer):
        await eventually(lambda: len(waiting()) == 1)
        before = waiting()
        writer.write(getting(f"{FINETUNES}/large/finetune-assets/{WEIGHTS_FILE}"))
        await reader.readuntil(b"\r\n\r\n")
        during = waiting()
        await reader.readexactly(8 << 20)
        writer.write(getting("/livez"))
        await reader.readuntil(b"\r\n\r\n")

        assert during[0] >= 4 * before[0]
        assert waiting() == before


async def test_uploads_to_one_finetune_at_once_end_with_one_of_them_whole(
    server: RealServer, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    configs = [files[CONFIG_FILE] + b" " * index for index in range(6)]

    answers = await asyncio.gather(*(upload(client, "poet", CONFIG_FILE, config) for config in configs))
    stored = await client.get(f"{FINETUNES}/poet/finetune-assets/{CONFIG_FILE}")

    assert {answer.status_code for answer in answers} == {200}
    assert stored.content in configs


async def test_both_files_at_once_and_each_twice_make_it_ready(
    server: RealServer, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    answers = await asyncio.gather(
        *(upload(client, "poet", name, content) for name, content in [*files.items(), *files.items()])
    )

    assert {answer.status_code for answer in answers} == {200}
    shown = (await client.get(f"{FINETUNES}/poet")).json()["result"]
    assert shown["ready"]
    assert shown["files"] == [CONFIG_FILE, WEIGHTS_FILE]


async def test_the_account_s_placeholder_stands_in_every_path(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    path = FINETUNES.replace(ALICE, "your-account-id")

    finetune_id = await ready(client, "poet", files, path)

    assert (await client.get(FINETUNES)).json()["result"][0]["id"] == finetune_id
