"""The soak `make soak-power-losses`: more than ten thousand states that power losses may leave; writes what it saw."""

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.soaks.kills import commit
from tests.storage import file_calls
from tests.storage.power_loss import states
from tests.storage.stored_blobs import opened
from tests.storage.test_power_loss import check, recorded

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "power_losses.json"
RANDOM_STATES = 12
"""States that are drawn between any two calls, besides the least and the most that may be left."""


async def lose_power(library: Path, folder: Path, kills: tuple[int, ...], generator: random.Random) -> int:
    """Try every state of one recording, with a kill at each number; returns how many."""
    tried = 0
    for state in states(recorded(library, folder / f"recorded {kills}", kills), generator, RANDOM_STATES):
        state.write(folder / "state")
        async with opened(folder / "state") as blobs:
            await check(blobs, state)
        shutil.rmtree(folder / "state")
        tried += 1
    return tried


async def soak(folder: Path, least: int, seed: int) -> dict[str, Any]:
    generator = random.Random(seed)
    library = file_calls.build(folder)
    calls = len(recorded(library, folder / "recorded", ()))
    tried, kills = await lose_power(library, folder, (), generator), 0
    while tried < least:
        tried += await lose_power(library, folder, (generator.randrange(1, calls),), generator)
        kills += 1
    return {"states": tried, "recordings with a kill": kills, "lost": 0, "torn": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=10_000, help="at least so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    began, soaked = time.monotonic(), commit()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        # The first contradiction ends it.
        seen = asyncio.run(soak(Path(folder), options.states, options.seed))
    report = {"commit": soaked, "seed": options.seed} | seen | {"minutes": round((time.monotonic() - began) / 60, 1)}
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(report)


if __name__ == "__main__":
    main()
