"""A server's file is there while the server is, and never taken for a running one afterwards."""

import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gemlora.errors import StorageFailed
from gemlora.storage.servers import RunningServer, find_server, notice

SERVER = """
import sys
from pathlib import Path
from gemlora.storage.servers import notice
with notice(Path(sys.argv[1])) as publish:
    publish(sys.argv[2])
    print("published", flush=True)
    sys.stdin.read()
"""


@contextmanager
def server(folder: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVER, str(folder), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "published\n"
        yield process


def test_where_nothing_was_published_nothing_runs(tmp_path: Path) -> None:
    assert find_server(tmp_path / "servers") is None
    with notice(tmp_path / "servers"):
        assert find_server(tmp_path / "servers") is None


def test_a_server_is_found_until_it_ends(tmp_path: Path) -> None:
    with server(tmp_path / "servers", "http://127.0.0.1:1") as process:
        assert find_server(tmp_path / "servers") == RunningServer("http://127.0.0.1:1", process.pid)
        [file] = (tmp_path / "servers").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        process.communicate()

    assert find_server(tmp_path / "servers") is None
    assert list((tmp_path / "servers").iterdir()) == []


def test_a_killed_server_is_not_found_and_its_file_goes_with_the_next_start(tmp_path: Path) -> None:
    with server(tmp_path / "servers", "http://127.0.0.1:1") as process:
        process.kill()
    assert find_server(tmp_path / "servers") is None
    assert len(list((tmp_path / "servers").iterdir())) == 1

    with notice(tmp_path / "servers") as publish:
        publish("http://127.0.0.1:2")
        assert find_server(tmp_path / "servers") == RunningServer("http://127.0.0.1:2", os.getpid())
        assert len(list((tmp_path / "servers").iterdir())) == 1


def test_of_several_servers_one_that_runs_is_found(tmp_path: Path) -> None:
    with server(tmp_path / "servers", "http://127.0.0.1:1") as first:
        with server(tmp_path / "servers", "http://127.0.0.1:2") as second:
            assert find_server(tmp_path / "servers") == RunningServer("http://127.0.0.1:2", second.pid)
            second.kill()
        assert find_server(tmp_path / "servers") == RunningServer("http://127.0.0.1:1", first.pid)
        first.kill()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", json.dumps({"url": "x", "pid": 1, "more": 2}), "\0"])
def test_a_file_of_another_kind_is_no_server(tmp_path: Path, content: str) -> None:
    with (tmp_path / "x.json").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(content)
        file.flush()

        assert find_server(tmp_path) is None


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "servers").touch()

    with notice(tmp_path / "servers") as publish, pytest.raises(StorageFailed, match="that the server runs"):
        publish("http://127.0.0.1:1")
