"""The thread pool by itself, in a program of its own: kernels do not show which thread did what."""

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAM = REPOSITORY / "tests" / "native" / "thread_pool.cpp"


def test_each_task_runs_once_and_idle_threads_take_what_others_leave(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.fail("g++ is missing: run tests/install")
    native = REPOSITORY / "native"
    program = tmp_path / "thread_pool"
    options = ["-std=c++20", "-O1", "-pthread", f"-I{native}", "-o", str(program)]
    for command in (["g++", *options, str(PROGRAM), str(native / "thread_pool.cpp")], [str(program)]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
