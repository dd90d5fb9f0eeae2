"""Where something is written to: beside its name, which it gets when it is whole."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gemlora.errors import InvalidRequest, StorageFailed
from gemlora.storage.files import storage_errors, sync_folder


@contextmanager
def written(path: Path, size: int, is_replaceable: Callable[[Path], bool] | None) -> Iterator[Path]:
    """A name beside `path` to write `size` bytes to, a file or a folder; it becomes `path` at the end of the block.

    What is at `path` stays until then. With `is_replaceable` it is replaced if that says so of it. Raises
    `InvalidRequest` if it is not, and `StorageFailed` if the disk is full or cannot be written.
    """
    check_free(path, is_replaceable)
    with storage_errors(f"write to {path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    if size > free:
        raise StorageFailed(f"{path} needs {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there")
    unique = secrets.token_hex(8)
    partial, old = (path.with_name(f".{path.name}-{unique}.{kind}") for kind in ("partial", "old"))
    try:
        with storage_errors(f"write to {path}"):
            yield partial
            check_free(path, is_replaceable)
            if path.exists():
                path.rename(old)
            partial.rename(path)
            sync_folder(path.parent)
    finally:
        for left in (partial, old):
            remove(left)


def check_free(path: Path, is_replaceable: Callable[[Path], bool] | None) -> None:
    """Raises `InvalidRequest` if something is at `path` that must not be replaced."""
    if not path.exists():
        return
    if is_replaceable is None:
        raise InvalidRequest(f"{path} is there already; --force replaces it")
    if not is_replaceable(path):
        raise InvalidRequest(f"{path} is there already and holds something else: remove it yourself")


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
