"""Files that survive a crash: a reported write is there afterwards, whole, and readable by the owner alone."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemlora.errors import StorageFailed

OWNER_ONLY_FOLDER = 0o700
OWNER_ONLY_FILE = 0o600


@contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn an `OSError` into `StorageFailed` with what was being done."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"Could not {action}: {error.strerror or error}") from error


def create_folder(folder: Path) -> None:
    """Create `folder` for the owner alone, its parents too, and make its entry durable."""
    if folder.is_dir():
        return
    create_folder(folder.parent)
    folder.mkdir(mode=OWNER_ONLY_FOLDER, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step, readable by the owner alone."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
