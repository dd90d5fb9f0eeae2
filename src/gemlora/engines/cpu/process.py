"""One worker process and the socket to it, as the client sees them."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from gemlora.engines.cpu.frames import Event, encode, event_reader

READ_BYTES = 1 << 16

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""The kernels have their own threads; NumPy's would only cost memory and start-up time."""


class WorkerProcess:
    """A running worker. Whatever it dies of, `receive` tells."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._frames = event_reader()

    @classmethod
    async def spawn(cls, command: Sequence[str]) -> "WorkerProcess":
        """Start `command` with the file descriptor of its end of the socket as last argument."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = _start([*command, str(theirs.fileno())], theirs.fileno())
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, *commands: Struct) -> None:
        """Write commands without waiting; to a dead worker they are lost."""
        if not self._writer.is_closing():
            self._writer.write(encode(commands))

    async def receive(self) -> list[Event]:
        """What the worker said since the last call, at least one event; empty once it is gone.

        Raises `ValueError` or `MsgspecError` for what is no event.
        """
        events: list[Event] = []
        with suppress(ConnectionError):  # it died with commands unread
            while not events and (data := await self._reader.read(READ_BYTES)):
                events = self._frames.feed(data)
        return events

    async def stop(self, patience: float) -> int:
        """Close the socket, which tells it to exit; kill it after `patience` seconds. Returns its exit status."""
        self._writer.transport.abort()
        try:
            return await asyncio.to_thread(self._process.wait, patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)


def _start(command: Sequence[str], descriptor: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        env=os.environ | ENVIRONMENT,
        process_group=0,  # so that Ctrl+C reaches the parent alone, also while the worker still starts
    )
