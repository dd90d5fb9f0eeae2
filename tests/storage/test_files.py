"""Small files are replaced in one step or not at all."""

import os
import stat
from pathlib import Path

import pytest

from gemlora.errors import StorageFailed
from gemlora.storage.files import storage_errors, write_durably


def test_a_file_is_replaced_whole_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)

    write_durably(path, b"new")

    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_durably(path, b"new")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_storage_error_says_what_was_being_done_and_why_it_failed() -> None:
    with (
        pytest.raises(StorageFailed, match=r"^Could not write the moon: No space left on device$"),
        storage_errors("write the moon"),
    ):
        raise OSError(28, "No space left on device", "/secret/path")
