"""Each call that stores something fails once: success or `StorageFailed`; nothing torn or left; no restart needed."""

import errno
import json
from pathlib import Path

import pytest
from tests.storage import file_calls


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EMFILE], ids=errno.errorcode.get)
def test_every_call_of_files_and_database_may_fail_once(code: int, tmp_path: Path, memory: Path) -> None:
    library = file_calls.build(tmp_path)

    finished = file_calls.run_preloaded(library, "tests.storage.failing_disk", str(memory), str(code))

    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)[str(code)] >= 40
