"""Single faults of a bucket are got over; lasting ones are a storage error in bounded time, with nothing torn left."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.backends import KEY, S3Server, s3_server  # noqa: F401
from tests.storage.faulty_proxy import FaultyProxy, running_proxy

from gemlora.errors import StorageFailed
from gemlora.storage import s3_objects
from gemlora.storage.object_cache import ObjectCache
from gemlora.storage.s3_objects import S3Objects, open_bucket

CONTENT = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:  # noqa: F811
    with running_proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def objects(
    proxy: FaultyProxy,
    s3_server: S3Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[S3Objects]:
    monkeypatch.setattr(s3_objects, "REQUEST_SECONDS", 1)
    monkeypatch.setattr(s3_objects, "RETRY_SECONDS", 3)
    store = open_bucket(s3_server.create_bucket(), "", proxy.endpoint, "us-east-1", KEY, "hidden-secret")
    yield S3Objects(store, ObjectCache(tmp_path / "cache", 1 << 30))
    proxy.set(lambda _number: None)


def fresh_reader(objects: S3Objects, tmp_path: Path) -> S3Objects:
    return S3Objects(objects._store, ObjectCache(tmp_path / "other cache", 1 << 30))


@pytest.mark.parametrize("fault", ["unavailable", "drop"])
def test_each_request_may_fail_once(objects: S3Objects, proxy: FaultyProxy, tmp_path: Path, fault: str) -> None:
    proxy.set(lambda _number: None)
    objects.put(CONTENT)
    needed = proxy.requests
    assert needed >= 3

    for failing in range(1, needed + 1):
        proxy.set(lambda number, failing=failing: fault if number == failing else None)
        try:
            digest = objects.put(CONTENT + bytes([failing]))
        except StorageFailed:
            # Not every request may be repeated by the library; the caller's next one succeeds.
            digest = objects.put(CONTENT + bytes([failing]))
        assert objects.verify(digest)
        assert fresh_reader(objects, tmp_path).local(digest).read_bytes() == CONTENT + bytes([failing])


@pytest.mark.parametrize(
    ("fault", "reason"), [("unavailable", "503 Service Unavailable"), ("slow down", "429"), ("stall", "")]
)
def test_lasting_faults_are_storage_errors_and_end_with_the_fault(
    objects: S3Objects, proxy: FaultyProxy, tmp_path: Path, fault: str, reason: str
) -> None:
    kept = objects.put(b"kept")
    reader = fresh_reader(objects, tmp_path)
    proxy.set(lambda _number: fault)

    with pytest.raises(StorageFailed, match=f"the object store failed.*{reason}") as failed:
        objects.put(CONTENT)
    with pytest.raises(StorageFailed):
        reader.local(kept)
    proxy.set(lambda _number: None)

    assert "hidden-secret" not in str(failed.value)
    assert reader.local(kept).read_bytes() == b"kept"
    assert objects.verify(objects.put(CONTENT))
    assert not list((tmp_path / "cache" / "incoming").iterdir())
