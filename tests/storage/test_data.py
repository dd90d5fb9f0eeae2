"""The data folder belongs to its owner alone."""

import os
import stat
from pathlib import Path

import pytest

from gemlora.errors import StorageFailed
from gemlora.storage.data import DataFolder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def generous_umask() -> object:
    previous = os.umask(0)
    yield
    os.umask(previous)


def test_a_missing_folder_is_created_with_its_parents(tmp_path: Path) -> None:
    data = DataFolder.open(tmp_path / "a" / "b")

    assert [mode(path) for path in (tmp_path / "a", data.path, data.objects)] == [0o700] * 3
    assert mode(data.database) == 0o600


def test_an_empty_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir(mode=0o755)

    assert mode(DataFolder.open(folder).path) == 0o700


def test_a_folder_with_other_content_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "used"
    folder.mkdir(mode=0o755)
    (folder / "something").touch()

    data = DataFolder.open(folder)

    assert mode(folder) == 0o755
    assert mode(data.database) == 0o600
    assert mode(data.objects) == 0o700


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    first = DataFolder.open(tmp_path / "data")
    first.database.write_bytes(b"content")

    assert DataFolder.open(tmp_path / "data") == first
    assert first.database.read_bytes() == b"content"


def test_a_file_in_its_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageFailed, match="Could not open the data directory"):
        DataFolder.open(tmp_path / "file")


def test_a_relative_path_does_not_depend_on_the_current_folder_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = DataFolder.open(Path("data"))
    monkeypatch.chdir("/")

    assert data.database.is_file()
