"""Which servers run on a data folder: each keeps a locked file there that says where it answers.

The lock goes with the process, however it ends, so that what a killed server left is never taken for a running one.
Several servers may run on one folder.
"""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gemlora.storage.files import create_folder, storage_errors


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where a server on this machine answers. `url` has no slash at its end."""

    url: str
    pid: int


@contextmanager
def notice(folder: Path) -> Iterator[Callable[[str], None]]:
    """What says, when it is called with a URL, that this process answers there; until the end of the block."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(_published(folder, RunningServer(url, os.getpid())))


def find_server(folder: Path) -> RunningServer | None:
    """The server that was announced last, of those that run now."""
    running = [path for path in folder.glob("*.json") if _is_locked(path)]
    for path in sorted(running, key=_age):
        try:
            return RunningServer(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            continue  # it has just ended, or is nothing of ours
    return None


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0


@contextmanager
def _published(folder: Path, server: RunningServer) -> Iterator[None]:
    with storage_errors("say in the data directory that the server runs"):
        create_folder(folder)
        for path in folder.glob("*.json"):
            if not _is_locked(path):
                path.unlink(missing_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".")
    with os.fdopen(descriptor, "wb") as file:
        with storage_errors("say in the data directory that the server runs"):
            # Locked and whole before it has its name: nobody sees it otherwise.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(asdict(server)).encode())
            file.flush()
            path = Path(temporary).replace(folder / f"{secrets.token_hex(8)}.json")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
