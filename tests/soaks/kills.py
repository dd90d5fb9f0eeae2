"""The soak `make soak-kills`: more than a thousand kills, at every step and at random instants; writes what it saw.

Every operation of the registry is killed at each of its steps and at random instants, on SQLite with a folder and on
PostgreSQL with a bucket; and whole servers are killed while clients use them. The first contradiction ends it.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.backends import free_port, running_postgres, running_s3
from tests.registry.killing import SCENARIOS, Place, Trial, prepare, survive
from tests.registry.peft_folder import PeftFolder, config, tensors
from tests.soaks.http_kills import Server, kill_servers

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "kills.json"
LATEST_INSTANT = 0.06
"""Seconds after the beginning of an operation until it is killed, at most."""

Report = dict[str, Any]


def counted(trial: Trial) -> Counter[str]:
    """What one trial adds; an operation that was faster than its kill is none."""
    changes = sum(message != "finished" and message != "removing" for message in trial.acknowledged)
    return Counter({"kills": not trial.finished, "acknowledged changes": changes})


async def step_kills(place: Place, folder: Path) -> AsyncIterator[Counter[str]]:
    """Every step of every operation."""
    for name in SCENARIOS:
        step, finished = 0, False
        while not finished:
            step += 1
            trial = await survive(place, name, folder, step=step)
            finished = trial.finished
            yield counted(trial)


async def instant_kills(place: Place, folder: Path, kills: int, seed: int) -> AsyncIterator[Counter[str]]:
    """Random operations at random instants."""
    generator = random.Random(seed)
    while kills:
        name = generator.choice([*SCENARIOS])
        trial = await survive(place, name, folder, seconds=generator.uniform(0, LATEST_INSTANT))
        kills -= not trial.finished
        yield counted(trial)


@contextmanager
def opened_places(folder: Path) -> Iterator[dict[str, Place]]:
    """The two pairs of database and store of blobs."""
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        s3 = stack.enter_context(running_s3())
        yield {
            "SQLite and a folder": Place(folder / "local"),
            "PostgreSQL and a bucket": Place(folder / "remote", postgres.url(), s3.create_bucket(), s3.endpoint),
        }


def kill_operations(folder: Path, kills: int, seed: int, parts: Report) -> None:
    with opened_places(folder) as places:
        asyncio.run(kill_in(places, folder, kills, seed, parts))


async def kill_in(places: dict[str, Place], folder: Path, kills: int, seed: int, parts: Report) -> None:
    victim = PeftFolder(config(lora_alpha=8), tensors(seed=2)).write(folder / "victim")
    bystander = PeftFolder().write(folder / "bystander")
    for stores, place in places.items():
        await prepare(place, bystander)
        for instants, trials in (
            ("every step", step_kills(place, victim)),
            ("random instants", instant_kills(place, victim, kills, seed)),
        ):
            counts = parts[f"operations on {stores}, {instants}"] = Counter()
            async for more in trials:
                counts.update(more)
            print(f"operations on {stores}, {instants}: {dict(counts)}", flush=True)


def kill_whole_servers(folder: Path, kills: int, seed: int, parts: Report) -> None:
    """Three of four on SQLite with a folder."""
    with opened_places(folder) as places:
        for (stores, place), share in zip(places.items(), (kills - kills // 4, kills // 4), strict=True):
            for counts in kill_servers(folder, Server(place, free_port()), share, seed):
                parts[f"servers on {stores}, three clients, random instants"] = counts
            print(f"servers on {stores}: {dict(counts)}", flush=True)


def commit() -> str:
    """The commit that is soaked, with a plus when files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], capture_output=True, text=True, check=True
    )
    return described.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instants", type=int, default=250, help="kills of operations at random instants, per stores")
    parser.add_argument("--servers", type=int, default=400, help="kills of whole servers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    began = time.monotonic()
    parts: Report = {}
    report: Report = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "seed": options.seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "parts": parts,
    }
    failure = None
    with tempfile.TemporaryDirectory(prefix="gemlora-soak-") as folder, ThreadPoolExecutor(2) as threads:
        # Side by side: what is killed mostly waits for disks and new processes.
        running = [
            threads.submit(kill_operations, Path(folder) / "operations", options.instants, options.seed, parts),
            threads.submit(kill_whole_servers, Path(folder) / "servers", options.servers, options.seed, parts),
        ]
        try:
            for part in running:
                part.result()
        except Exception:
            failure = traceback.format_exc()
    report["kills"] = sum(counts["kills"] for counts in parts.values())
    report["acknowledged changes"] = sum(counts["acknowledged changes"] for counts in parts.values())
    # The first of these would have ended the soak.
    report |= {"lost": 0, "torn": 0, "manual steps": 0} if failure is None else {"failure": failure}
    report["minutes"] = round((time.monotonic() - began) / 60, 1)
    text = json.dumps(report, indent=1)
    options.json.write_text(text + "\n")
    print(text)
    if failure is not None:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
