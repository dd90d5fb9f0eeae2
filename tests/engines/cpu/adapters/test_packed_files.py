"""Packed files are whole or as good as missing, and together stay within their budget."""

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Thread

import numpy as np
import pytest

from gemlora.engines.cpu.adapters.packed_files import HEADER_BYTES, PackedFiles

KEY = "c" * 64
ARRAYS = np.arange(256, dtype=np.uint8)


def digest(number: int) -> str:
    return f"{number:064x}"


def used(folder: Path, number: int, seconds: int) -> None:
    """Let the file look as if it had been used then."""
    os.utime(folder / digest(number) / KEY, (seconds, seconds))


def kept(folder: Path) -> list[int]:
    return sorted(int(path.parent.name, 16) for path in folder.glob("*/*"))


def test_what_was_written_is_read_back_read_only(tmp_path: Path) -> None:
    files = PackedFiles(tmp_path, 1 << 20)
    assert files.open(digest(1), KEY, 256) is None
    files.write(digest(1), KEY, ARRAYS)
    found = files.open(digest(1), KEY, 256)
    assert found is not None
    assert np.array_equal(found, ARRAYS)
    assert not found.flags.writeable
    assert found.ctypes.data % 64 == 0
    assert files.open(digest(2), KEY, 256) is None
    assert files.open(digest(1), "d" * 64, 256) is None


@pytest.mark.parametrize("size", [255, 257, 0])
def test_a_file_of_another_size_is_as_good_as_missing(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    files = PackedFiles(tmp_path, 1 << 20)
    files.write(digest(1), KEY, ARRAYS)
    with caplog.at_level(logging.WARNING):
        assert files.open(digest(1), KEY, size) is None
    assert "made anew: its size is wrong" in caplog.text


def test_a_file_under_another_files_name_is_as_good_as_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = PackedFiles(tmp_path, 1 << 20)
    files.write(digest(1), KEY, ARRAYS)
    (tmp_path / digest(1) / KEY).rename(tmp_path / digest(1) / ("d" * 64))
    with caplog.at_level(logging.CRITICAL):
        assert files.open(digest(1), "d" * 64, 256) is None


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no room")

    files = PackedFiles(tmp_path, 1 << 20)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no room"):
        files.write(digest(1), KEY, ARRAYS)
    assert list(tmp_path.glob("*/*")) == []


def test_the_least_recently_used_files_leave(tmp_path: Path) -> None:
    each = HEADER_BYTES + len(ARRAYS)
    files = PackedFiles(tmp_path, 4 * each)
    for number in range(4):
        files.write(digest(number), KEY, ARRAYS)
        used(tmp_path, number, 1000 + number)
    assert kept(tmp_path) == [0, 1, 2, 3]
    assert files.open(digest(0), KEY, 256) is not None
    files.write(digest(4), KEY, ARRAYS)
    assert kept(tmp_path) == [0, 3, 4]
    assert not (tmp_path / digest(1)).exists()


def test_files_of_an_earlier_process_count(tmp_path: Path) -> None:
    each = HEADER_BYTES + len(ARRAYS)
    for number in range(5):
        PackedFiles(tmp_path, 1 << 20).write(digest(number), KEY, ARRAYS)
        used(tmp_path, number, 1000 + number)
    PackedFiles(tmp_path, 2 * each).write(digest(5), KEY, ARRAYS)
    assert kept(tmp_path) == [5]


def test_what_can_never_fit_is_not_written(tmp_path: Path) -> None:
    files = PackedFiles(tmp_path, 300)
    files.write(digest(1), KEY, ARRAYS)
    assert list(tmp_path.iterdir()) == []


def test_discarding_removes_every_packing_of_an_adapter_and_no_other(tmp_path: Path) -> None:
    files = PackedFiles(tmp_path, 1 << 20)
    for number, key in ((1, KEY), (1, "d" * 64), (2, KEY)):
        files.write(digest(number), key, ARRAYS)
    mapped = files.open(digest(1), KEY, 256)
    files.discard(digest(1))
    files.discard(digest(3))
    assert kept(tmp_path) == [2]
    assert mapped is not None
    assert np.array_equal(mapped, ARRAYS)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "A" * 64, "a" * 63])
def test_only_digests_become_paths(tmp_path: Path, name: str) -> None:
    files = PackedFiles(tmp_path, 1 << 20)
    for call in (lambda: files.discard(name), lambda: files.open(name, KEY, 1), lambda: files.open(KEY, name, 1)):
        with pytest.raises(ValueError, match="not a SHA-256 digest"):
            call()


def test_several_processes_may_share_the_folder(tmp_path: Path) -> None:
    """Each with its own view of how full it is; files come and go under the others' hands, and none is ever torn."""
    contents = {hashlib.sha256(bytes([seed])).hexdigest(): np.full(5000, seed, np.uint8) for seed in range(12)}
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        random, files = Random(seed), PackedFiles(tmp_path, 5 * (HEADER_BYTES + 5000))
        try:
            for _ in range(150):
                digest = random.choice(list(contents))
                key = random.choice(list(contents))
                found = files.open(digest, key, 5000)
                if found is None:
                    with suppress(FileNotFoundError, FileExistsError):  # a folder left or came meanwhile
                        files.write(digest, key, contents[digest])
                else:
                    assert np.array_equal(found, contents[digest])
                if random.random() < 0.2:
                    with suppress(OSError):  # another one writes there
                        files.discard(digest)
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
