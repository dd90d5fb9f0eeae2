import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from tests.lora_pairs import linear_pair

from gemlora.errors import SettingsInvalid
from gemlora.kernels import Kernels, LoraWeights, Matrix, Segments
from gemlora.kernels.cores import usable_cores
from gemlora.kernels.interface import Calls
from gemlora.kernels.native import NativeKernels, instruction_sets
from gemlora.kernels.reference import ReferenceKernels


def test_auto_takes_the_first_instruction_set() -> None:
    kernels = NativeKernels(1)
    assert kernels.instruction_set == instruction_sets()[0]
    assert instruction_sets()[-1] == "portable"


def test_an_instruction_set_that_the_processor_lacks_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match=r"cannot run 'abacus'; it can run .*portable"):
        NativeKernels(1, "abacus")


def test_no_threads_are_refused() -> None:
    with pytest.raises(SettingsInvalid, match="at least 1, not 0"):
        NativeKernels(0)


def test_threads_default_to_the_usable_cores() -> None:
    assert NativeKernels().threads == usable_cores()


@pytest.mark.parametrize(("content", "limit"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1)])
def test_a_container_quota_limits_the_cores(tmp_path, content: str, limit: int | None) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(content)
    assert usable_cores(quota) == (usable_cores(tmp_path / "missing") if limit is None else limit)


def test_idle_threads_use_no_processor_time() -> None:
    kernels = NativeKernels(3)
    x = np.ones((512, 640), np.float32)
    kernels.softcap(x, 30.0)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1
    kernels.softcap(x, 30.0)
    assert (x < 1).all()
    assert (x == x[0, 0]).all()


@pytest.mark.parametrize("make", [NativeKernels, ReferenceKernels])
def test_recorded_calls_read_what_their_arrays_hold_later(make: Callable[[], Kernels]) -> None:
    kernels, rng = make(), np.random.default_rng(0)
    matrix = Matrix.from_floats(rng.standard_normal((50, 64), np.float32))
    pairs = [linear_pair(*(rng.standard_normal((2, size), np.float32) for size in (64, 50)), 1.0) for _ in range(2)]
    segments = [Segments.of([(LoraWeights(str(i), {(0, "q_proj"): pair}), 9)]) for i, pair in enumerate(pairs)]
    x, out, largest = np.empty((9, 64), np.float32), np.empty((9, 50), np.float32), np.empty(9, np.int32)

    def calls(segments: Segments) -> None:
        kernels.linear(x, [matrix], out)
        kernels.adapt(x, out, segments, 0, [("q_proj", 0)])
        kernels.most_likely(x, matrix, None, largest)

    def results(calls: Calls, which: int) -> bytes:
        x[:] = np.random.default_rng(which).standard_normal(x.shape)
        calls(segments[which])
        return out.tobytes() + largest.tobytes()

    expected = [results(calls, which) for which in (0, 1)]
    repeated = kernels.record(calls, segments[0])
    assert [results(repeated, which) for which in (0, 1)] == expected


def test_a_record_keeps_the_arrays_that_it_needs() -> None:
    x, out, nobody = np.ones((2, 64), np.float32), np.empty((2, 5), np.float32), Segments.of([])

    def recorded() -> Calls:
        kernels, matrix = NativeKernels(1), Matrix.from_floats(np.full((5, 64), 2, np.float32))
        inputs = x.copy()
        return kernels.record(lambda _: kernels.linear(inputs, [matrix], out), nobody)

    repeated = recorded()
    out[:] = 0
    gc.collect()
    repeated(nobody)
    assert (out == 128).all()


def test_what_fails_while_it_is_recorded_ends_the_record() -> None:
    kernels, x, nobody = NativeKernels(1), np.ones((2, 16), np.float32), Segments.of([])

    def calls(_: Segments) -> None:
        kernels.softcap(x, 5.0)
        kernels.softcap(x[:, ::2], 5.0)

    with pytest.raises(ValueError, match="x must be contiguous"):
        kernels.record(calls, nobody)
    before = x.copy()
    kernels.record(lambda _: None, nobody)(nobody)
    assert np.array_equal(x, before)


def test_norms_of_matrices_cannot_be_recorded() -> None:
    kernels, numbers, out = NativeKernels(1), np.ones((3, 16), np.float32), np.empty(3, np.float32)
    matrix = Matrix.from_floats(numbers)

    with pytest.raises(RuntimeError, match="cannot be part of a program"):
        kernels.record(lambda _: kernels.row_norms(matrix, numbers[:, :1], numbers[:1], out), Segments.of([]))


def test_calls_from_several_python_threads_do_not_disturb_each_other() -> None:
    kernels = NativeKernels(2)
    rng = np.random.default_rng(0)
    matrices = [Matrix.from_floats(rng.standard_normal((50, 64), np.float32)) for _ in range(3)]
    x = rng.standard_normal((9, 64), np.float32)
    expected = []
    for matrix in matrices:
        expected.append(np.empty((9, 50), np.float32))
        kernels.linear(x, [matrix], expected[-1])
    wrong: list[int] = []

    def work(number: int) -> None:
        out = np.empty((9, 50), np.float32)
        for _ in range(200):
            kernels.linear(x, [matrices[number]], out)
            if not np.array_equal(out, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_more_threads_than_cores_give_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    matrix, x = Matrix.from_floats(rng.standard_normal((999, 64), np.float32)), rng.standard_normal((9, 64), np.float32)
    expected = np.empty((9, 999), np.float32)
    NativeKernels(1).linear(x, [matrix], expected)
    many = NativeKernels(usable_cores() + 3)
    for _ in range(100):
        out = np.empty_like(expected)
        many.linear(x, [matrix], out)
        assert out.tobytes() == expected.tobytes()


def test_kernels_go_on_after_a_call_that_was_too_large_for_memory(native: NativeKernels) -> None:
    matrix, x = Matrix.from_floats(np.ones((16, 64), np.float32)), np.ones((1, 64), np.float32)
    out = np.empty((1, 16), np.float32)
    native.linear(x, [matrix], out)
    rows = 2**31
    many = as_strided(np.ones(1 << 16, np.float32), (rows, 1 << 16), (0, 4))
    wide = Matrix.from_floats(np.ones((1, 1 << 16), np.float32))
    with pytest.raises(MemoryError):
        native.linear(many, [wide], as_strided(np.ones(1, np.float32), (rows, 1), (0, 4)))
    native.linear(x, [matrix], out)
    assert (out == 64).all()


LIMITED = """
import resource
import numpy as np
from pathlib import Path
from gemlora.kernels import SamplingBatch
from gemlora.kernels.native import NativeKernels

def leave(mebibytes):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (mebibytes << 20), resource.RLIM_INFINITY))
"""

TOO_MANY_THREADS = """
leave(256)
try:
    NativeKernels(2000)
except RuntimeError as error:
    print(error)
"""

TOO_LITTLE_MEMORY_FOR_A_TASK = """
kernels, rows, logits = NativeKernels(2), 4, np.zeros((4, 1 << 21), np.float32)
whole, none = np.arange(rows, dtype=np.uint64), np.zeros(0, np.int32)
zeros, ones = np.zeros(rows, np.float32), np.ones(rows, np.float32)
batch = SamplingBatch(ones, np.zeros(rows, np.int32), ones / 2, whole, whole, ones, zeros, zeros, none, none,
                      np.zeros(rows, np.int64))
leave(8)
try:
    kernels.sample(logits, batch)
except MemoryError:
    print("too little memory")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
print((kernels.sample(np.zeros((4, 1 << 21), np.float32), batch) >= 0).all())
"""


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (TOO_MANY_THREADS, "Resource temporarily unavailable"),
        (TOO_LITTLE_MEMORY_FOR_A_TASK, "too little memory\nTrue"),
    ],
    ids=["threads", "memory"],
)
def test_running_out_of_a_resource_raises(program: str, printed: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED + program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, printed, "")


def test_an_interpreter_with_kernels_exits_cleanly() -> None:
    program = (
        "from gemlora.kernels.native import NativeKernels as N; kept = [N(3) for _ in range(20)]; N(2); print('ok')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ok", "")


def test_importing_the_kernels_stays_light() -> None:
    program = "import sys, gemlora.kernels.native; print(sorted({'pydantic', 'torch', 'starlette'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
