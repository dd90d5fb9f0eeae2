"""The soak `make soak-conformance`: Schemathesis on the document of a whole server, with every operation, phase and
check, until there were enough cases. The first round that finds anything ends it with an error.
"""

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.results import commit
from tests.conformance.run import Outcome, conform, fake_server

RESULT = Path(__file__).parents[2] / "benchmarks/results/conformance.json"
EXAMPLES = 100
STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="at least so many")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each has its own")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    began, soaked, outcome, rounds = time.monotonic(), commit(), Outcome(), 0
    while outcome.cases.total() < options.cases:
        with tempfile.TemporaryDirectory() as folder, fake_server(Path(folder)) as server:
            conform(server, outcome, seed=options.seed + rounds, examples=EXAMPLES, steps=STEPS)
        rounds += 1
        print(f"round {rounds}: {outcome.cases.total():,} cases, {len(outcome.failures)} failures", flush=True)
        if outcome.failures or outcome.untried:
            raise SystemExit("\n\n".join([*outcome.failures, f"not tried: {sorted(outcome.untried)}"]))
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": soaked,
        "schemathesis": version("schemathesis"),
        "seed": options.seed,
        "rounds": rounds,
        "cases": outcome.cases.total(),
        "failures": 0,
        "operations": len(outcome.operations),
        "phases": dict(outcome.cases),
        "checks": dict(sorted(outcome.checks.items())),
        "statuses": dict(sorted(outcome.statuses.items())),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    options.result.write_text(json.dumps(report, indent=1) + "\n")
    print(options.result.read_text())


if __name__ == "__main__":
    main()
