"""What the machine is, and what it can do at this moment: int8 arithmetic and bandwidth, of one and of all cores."""

import json
import os
import platform
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from gemlora.kernels.cores import usable_cores

SOURCE = Path(__file__).with_name("limits.c")


@dataclass(frozen=True)
class Limits:
    """What so many threads reach together. The int8 rate is 0 where the processor has no VNNI with 512 bits."""

    threads: int
    int8_gmacs_per_second: float
    read_gigabytes_per_second: float


class Machine:
    """The machine that this process runs on. The probe is compiled once."""

    def __init__(self, folder: Path) -> None:
        """`folder` takes the compiled probe and must outlive this."""
        self._probe = folder / "limits"
        compiler = os.environ.get("CC", "cc")
        command = [compiler, "-O3", "-march=native", "-pthread", str(SOURCE), "-o", str(self._probe)]
        subprocess.run(command, check=True)

    def limits(self) -> list[Limits]:
        """Measured now, in a second or two: with one thread, and with as many as there are cores."""
        return [self.limits_of(threads) for threads in sorted({1, usable_cores()})]

    def limits_of(self, threads: int) -> Limits:
        """Measured now, with so many threads."""
        output = subprocess.run([self._probe, str(threads)], check=True, capture_output=True, text=True).stdout
        return Limits(threads, **json.loads(output))


def limits_now() -> list[dict[str, Any]]:
    """The limits as plain data, for one measurement alone."""
    with tempfile.TemporaryDirectory() as folder:
        return [asdict(limits) for limits in Machine(Path(folder)).limits()]


def facts() -> dict[str, Any]:
    """The machine in words: what a reader needs to compare figures with those of another one."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor()
