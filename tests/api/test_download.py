"""A file as an answer: whole and in order, or a connection that closes early."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message
from tests.api.parts import Parts

from gemlora.api.download import CHUNK, Download
from gemlora.engines.fake import FakeEngine
from gemlora.errors import StorageFailed

LOG = Parts(FakeEngine()).services.log


async def sent(download: Download, gone: bool = False, method: str = "GET") -> list[Any]:
    """The messages that a client gets."""
    messages: list[Message] = []

    async def receive() -> Message:
        if not gone:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.append(message)

    await download({"type": "http", "method": method, "extensions": {}}, receive, send)
    return messages


async def opened(path: Path, stall_seconds: float = 1) -> Download:
    return await Download.of(path, "adapter_model.safetensors", "application/octet-stream", '"e"', stall_seconds, LOG)


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 5])
async def test_a_file_is_sent_whole_in_pieces_also_when_it_is_deleted_meanwhile(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    download = await opened(path)
    path.unlink()

    start, *rest = await sent(download)

    assert dict(start["headers"])[b"content-length"] == str(size).encode()
    assert b"".join(message["body"] for message in rest) == content
    assert max(len(message["body"]) for message in rest) <= CHUNK
    assert [message["more_body"] for message in rest] == [True] * (len(rest) - 1) + [False]


async def test_a_question_for_the_headers_reads_nothing_and_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * CHUNK))
    download = await opened(path)

    start, end = await sent(download, method="HEAD")

    assert dict(start["headers"])[b"content-length"] == str(2 * CHUNK).encode()
    assert dict(start["headers"])[b"etag"] == b'"e"'
    assert (end["body"], end["more_body"]) == (b"", False)
    assert download._file.closed


async def test_a_file_that_is_not_there_is_an_error_before_the_answer(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        await opened(tmp_path / "none")


async def test_a_file_that_becomes_shorter_ends_the_answer_early(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * CHUNK))
    download = await opened(path)
    os.truncate(path, CHUNK)

    messages = await sent(download)

    assert messages[-1]["more_body"]


async def test_a_client_that_has_gone_gets_nothing_and_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100 * CHUNK))
    download = await opened(path)

    messages = await sent(download, gone=True)

    assert len(messages) < 50
    assert download._file.closed
