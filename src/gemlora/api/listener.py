"""The address that the server takes before it is ready to listen there. Imports stay light: this comes first."""

import socket

from gemlora.errors import SettingsInvalid

UNSENT_BYTES = 32 << 10
"""Bytes of an answer that wait in this process, and as many in the kernel, before the generation waits too."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has the address but does not listen yet, so that a taken port shows before a model is loaded.

    Raises `SettingsInvalid`.
    """
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it. Left to itself, the kernel would buffer a whole answer for a stalled reader.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT_BYTES)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise SettingsInvalid(f"--host {host} --port {port}: {error.strerror}") from error
    return listener
