"""NEON without an ARM processor: `tests/native/digests.cpp` is built for both, and its results must have the same bits.

The Python module itself is not cross-built, so the other tests do not reach these kernels.
"""

import platform
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from gemlora.kernels.native import instruction_sets

REPOSITORY = Path(__file__).parents[2]
NATIVE = REPOSITORY / "native"
PROGRAM = REPOSITORY / "tests" / "native" / "digests.cpp"

Digests = Mapping[str, Mapping[str, str]]
"""By instruction set and kernel."""


@dataclass(frozen=True, slots=True)
class Target:
    """A processor to build for, and what is special about it."""

    compiler: str
    definition: str
    variants: Mapping[str, tuple[str, ...]]
    """The instruction sets beside the portable one, with the compiler's options for them."""
    runner: tuple[str, ...] = ()


X86 = Target(
    "g++", "-DGEMLORA_X86", {"avx2": ("-march=x86-64-v3",), "avx512": ("-march=x86-64-v4", "-mavx512vnni")}
)  # fmt: skip
ARM = Target("aarch64-linux-gnu-g++", "-DGEMLORA_ARM", {"neon": ()}, ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"))
ARM_ITSELF = Target("g++", "-DGEMLORA_ARM", {"neon": ()})


def build(target: Target, folder: Path) -> Path:
    """Compile the program and the kernels, without the module's bindings. Quickly rather than for speed."""
    variants: dict[Path, tuple[str, ...]] = {
        NATIVE / "simd" / f"{name}.cpp": options for name, options in target.variants.items()
    }
    shared = [*NATIVE.glob("*.cpp"), PROGRAM, *(NATIVE / "simd" / name for name in ("dispatch.cpp", "portable.cpp"))]

    def compile_one(source: Path) -> Path:
        made = folder / f"{source.parent.name}_{source.stem}.o"
        options = ["-std=c++20", "-O1", "-ffp-contract=off", "-fno-math-errno", f"-I{NATIVE}", target.definition]
        run_tool([target.compiler, *options, *variants.get(source, ()), "-c", str(source), "-o", str(made)])
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, [*variants, *shared]))
    program = folder / "digests"
    run_tool([target.compiler, "-pthread", "-o", str(program), *map(str, objects)])
    return program


def run_tool(command: list[str]) -> str:
    """The output of a command that tests/install provides."""
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is missing: run tests/install")
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def digests(target: Target, folder: Path) -> Digests:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for line in run_tool([*target.runner, str(build(target, folder))]).splitlines():
        instruction_set, kernel, digest = line.split()
        found[instruction_set][kernel] = digest
    return found


def test_neon_gives_the_bits_of_the_other_instruction_sets(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "arm").mkdir()
    host = digests(X86 if platform.machine() == "x86_64" else ARM_ITSELF, tmp_path / "host")
    arm = digests(ARM, tmp_path / "arm")
    assert list(host) == instruction_sets()
    assert list(arm) == ["neon", "portable"]
    expected = host["portable"]
    assert len(expected) >= 13
    for found in (host, arm):
        for instruction_set, by_kernel in found.items():
            different = {kernel for kernel in expected if by_kernel[kernel] != expected[kernel]}
            assert not different, f"{instruction_set} differs in {different}"
