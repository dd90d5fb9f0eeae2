"""The soak `make soak-training`: a training of the starter weights, killed at random, ends as one that never was.

One training runs through. Another one, with the same data and settings, is killed 20 times, each time a random moment
after it began to work, and started again until it ends. Their losses and adapters must be equal to the bit.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

KILLS = 20
EXAMPLES = 96
LONGEST_SECONDS = 12.0
"""After so long at most, from the first step of a run on, it is killed."""

CHECKPOINT_SECONDS = 2.0
ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks/results/training_kills.json"
TRAIN = f"""
from gemlora.training import trainer
trainer.CHECKPOINT_SECONDS = {CHECKPOINT_SECONDS}
from gemlora.cli import main
main()
"""


def training(folder: Path) -> subprocess.Popen[str]:
    """The training as a process; what it says comes on its standard error."""
    arguments = [
        "train", folder.parent / "data.jsonl", "--name", "soak", "--output", folder, "--no-upload", "--epochs", 6,
        "--data-dir", folder.parent / "data",
    ]  # fmt: skip
    command = [sys.executable, "-c", TRAIN, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a training."""
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the training failed:\n{errors}")


def kill_at_random(process: subprocess.Popen[str], chance: random.Random) -> bool:
    """Kill a training some seconds after it looked at the base or went on; False if it ended before."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(("Held out", "Going on")):
            break
    time.sleep(chance.uniform(0, LONGEST_SECONDS))
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return True


def losses(folder: Path) -> dict[str, Any]:
    """What was seen, without the time that it took."""
    history = json.loads((folder / "training.json").read_text())["history"]
    return {"steps": history["steps"], "evaluations": history["evaluations"]}


def main() -> None:
    """Run the soak, and write its result if it found nothing."""
    chance = random.Random(6)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        lines = (ROOT / "starter/chat/train.jsonl").read_text().splitlines()
        (Path(folder) / "data.jsonl").write_text("\n".join(chance.sample(lines, EXAMPLES)))
        finish(training(whole))
        kills = 0
        while kills < KILLS and kill_at_random(training(killed), chance):
            kills += 1
            print(f"killed {kills} times", flush=True)
        if not (killed / "adapter_config.json").exists():
            finish(training(killed))
        assert losses(killed) == losses(whole), "the losses differ"
        digests = {sha256((one / "adapter_model.safetensors").read_bytes()).hexdigest() for one in (whole, killed)}
        assert len(digests) == 1, "the adapters differ"
        steps = len(losses(whole)["steps"])
    result = {"kills": kills, "steps": steps, "examples": EXAMPLES, "equal": True}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
