"""Fuzzes every target and writes the result: `python -m tests.fuzz.run [--runs N] [--result FILE]`.

Ends with an error and the offending input's place if there is a finding.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.fuzz.inputs import MAX_BYTES, TOKENS, seeds
from tests.fuzz.targets import ALL

SECONDS_PER_INPUT = 1
MEGABYTES = 512
RESULT = Path(__file__).parents[2] / "benchmarks/results/fuzz.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=350_000, help="executions of each target")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    targets = {target: fuzzed(target, options.runs) for target in ALL}
    result = {
        "executions": sum(target["executions"] for target in targets.values()),
        "findings": 0,
        "limits": {"seconds_per_input": SECONDS_PER_INPUT, "megabytes": MEGABYTES, "bytes_per_input": MAX_BYTES},
        "versions": {name: version(name) for name in ("atheris", "safetensors", "peft")},
        "targets": targets,
    }
    options.result.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def fuzzed(target: str, runs: int) -> dict[str, Any]:
    """What libFuzzer says about one target. Raises `SystemExit` if it ends with a finding."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{target}-", dir=memory if memory.is_dir() else None))
    inputs = folder / "inputs"
    inputs.mkdir()
    for content in seeds(target):
        (inputs / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    dictionary = folder / "dictionary"
    dictionary.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS))
    process = subprocess.run(
        [
            sys.executable, "-m", "tests.fuzz.fuzz", target, str(folder), f"-runs={runs}",
            f"-timeout={SECONDS_PER_INPUT}",
            f"-rss_limit_mb={MEGABYTES}", f"-max_len={MAX_BYTES}", f"-dict={dictionary}", "-len_control=0",
            f"-artifact_prefix={folder}/", str(inputs),
        ],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    done = re.search(r"Done (\d+) runs in (\d+) second", process.stderr)
    if process.returncode or done is None:
        print(process.stderr[-8000:], file=sys.stderr)
        raise SystemExit(f"{target}: a finding; its input lies in {folder}")
    coverage = re.findall(r"cov: (\d+) ft: (\d+)", process.stderr)[-1]
    return {
        "executions": int(done[1]),
        "seconds": int(done[2]),
        "seeds": len(seeds(target)),
        "inputs_found": len(list(inputs.iterdir())) - len(seeds(target)),
        "covered_edges": int(coverage[0]),
        "features": int(coverage[1]),
    }


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    main()
