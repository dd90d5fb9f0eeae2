"""The step loop's mailbox over the socket to the client."""

import selectors
import socket
from contextlib import suppress

from gemlora.engines.cpu.frames import Command, Event, Shutdown, command_reader, encode

READ_BYTES = 1 << 16


class SocketMailbox:
    """The step loop's mailbox over a stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = command_reader()
        self._open = True
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)

    def receive(self, wait: bool) -> list[Command]:
        """All commands that have come; the end of the stream reads as `Shutdown`."""
        ready = {key.fileobj for key, _ in self._selector.select(None if wait and self._open else 0)}
        if self._bell in ready:
            self._bell.recv(READ_BYTES)
        commands = self._read() if self._connection in ready else []
        return commands if self._open else [*commands, Shutdown()]

    def _read(self) -> list[Command]:
        commands: list[Command] = []
        try:
            while data := self._connection.recv(READ_BYTES, socket.MSG_DONTWAIT):
                commands += self._reader.feed(data)
            self._open = False
        except BlockingIOError:
            pass
        except ConnectionError:
            self._open = False
        return commands

    def send(self, events: list[Event]) -> None:
        """Write events; blocks while the client does not read."""
        try:
            self._connection.sendall(encode(events))
        except ConnectionError:
            self._open = False

    def wake(self) -> None:
        """Let a waiting `receive` return; may be called from any thread."""
        with suppress(BlockingIOError):  # then it is full of rings that nobody has heard yet
            self._button.send(b"\0")

    def close(self) -> None:
        """Give back what waiting took; the connection is its owner's."""
        self._selector.close()
        self._bell.close()
        self._button.close()
