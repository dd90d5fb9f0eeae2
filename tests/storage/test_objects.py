"""Blobs are there whole under their digest, or not at all."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from gemlora.errors import StorageFailed
from gemlora.storage.local_objects import LocalObjects

CONTENT = b"some bytes"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LONG_AGO = 1_000_000_000


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "objects")


def all_files(objects: LocalObjects) -> list[Path]:
    return [path for path in objects._path(DIGEST).parent.parent.rglob("*") if path.is_file()]


def test_a_kept_blob_lies_under_its_digest_for_its_owner_alone(objects: LocalObjects) -> None:
    with objects.receive() as incoming:
        incoming.write(CONTENT[:4])
        incoming.write(CONTENT[4:])
        assert incoming.size == len(CONTENT)
        assert incoming.digest == DIGEST
        assert not objects.contains(DIGEST)
        assert incoming.keep() == DIGEST

    assert objects.contains(DIGEST)
    assert objects._path(DIGEST).read_bytes() == CONTENT
    assert all_files(objects) == [objects._path(DIGEST)]
    assert stat.S_IMODE(objects._path(DIGEST).stat().st_mode) == 0o600
    assert stat.S_IMODE(objects._path(DIGEST).parent.stat().st_mode) == 0o700


def test_a_blob_that_is_not_kept_leaves_nothing(objects: LocalObjects) -> None:
    with objects.receive() as incoming:
        incoming.write(CONTENT)

    assert all_files(objects) == []


def test_an_error_while_writing_leaves_nothing(objects: LocalObjects) -> None:
    def write_and_fail() -> None:
        with objects.receive() as incoming:
            incoming.write(CONTENT)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()

    assert all_files(objects) == []


def test_the_same_content_is_stored_once(objects: LocalObjects) -> None:
    assert objects.put(CONTENT) == objects.put(CONTENT)
    assert len(all_files(objects)) == 1


def test_storing_again_heals_a_damaged_blob(objects: LocalObjects) -> None:
    objects.put(CONTENT)
    objects._path(DIGEST).write_bytes(b"other bytes")
    assert not objects.verify(DIGEST)

    objects.put(CONTENT)

    assert objects.verify(DIGEST)


def test_a_missing_blob_is_not_verified(objects: LocalObjects) -> None:
    assert not objects.verify(DIGEST)


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc/passwd", DIGEST[:-1], f"{DIGEST}0", DIGEST.upper(), f"{DIGEST}\n"]
)
def test_only_digests_become_paths(objects: LocalObjects, name: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256 digest"):
        objects._path(name)


def test_bytes_that_read_back_differently_are_not_stored(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemlora.storage.local_objects.digest_of", lambda _path: "0" * 64)

    with pytest.raises(StorageFailed, match="differs"):
        objects.put(CONTENT)

    assert all_files(objects) == []


@pytest.mark.parametrize("call", ["fsync", "open", "mkdir", "rename"])
def test_a_failing_system_call_is_a_storage_error_and_shows_no_blob(
    call: str, objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    owner, name = {"fsync": (os, "fsync"), "open": (os, "open"), "mkdir": (os, "mkdir"), "rename": (os, "replace")}[
        call
    ]
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(StorageFailed, match="No space left on device"):
        objects.put(CONTENT)
    monkeypatch.undo()

    assert not objects.contains(DIGEST)
    assert objects.put(CONTENT) == DIGEST


def test_only_old_unused_blobs_are_discarded(objects: LocalObjects) -> None:
    used, unused, young = objects.put(b"used"), objects.put(b"unused"), objects.put(b"young")
    for digest in (used, unused):
        os.utime(objects._path(digest), (LONG_AGO, LONG_AGO))

    assert objects.discard(frozenset({used}), grace_seconds=60) == 1

    assert [objects.contains(digest) for digest in (used, unused, young)] == [True, False, True]


def test_what_an_interrupted_write_left_is_discarded_when_old(objects: LocalObjects) -> None:
    with objects.receive() as incoming:
        os.utime(incoming.path, (LONG_AGO, LONG_AGO))
        assert objects.discard(frozenset(), grace_seconds=60) == 1


def test_discarding_in_an_empty_folder_does_nothing(objects: LocalObjects) -> None:
    assert objects.discard(frozenset(), grace_seconds=0) == 0


def test_discarding_overlooks_what_another_process_has_just_moved(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = objects._path(objects.put(CONTENT))
    os.utime(old, (LONG_AGO, LONG_AGO))
    gone = old.parent.parent / "incoming" / "0123"
    monkeypatch.setattr(Path, "glob", lambda _folder, _pattern: [gone, old])

    assert objects.discard(frozenset(), grace_seconds=60) == 1
    assert not old.exists()
