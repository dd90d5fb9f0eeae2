"""Schemathesis on the document that the server serves: every operation, phase, check and mode."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import schemathesis
from schemathesis.config import GenerationConfig, PhasesConfig, ProjectConfig, ProjectsConfig, StatefulPhaseConfig
from schemathesis.engine import Status, StopReason, events, from_schema
from tests.conformance.valid import supplied
from tests.e2e.running_server import RunningServer, running_server

ANSWER_SECONDS = 30


@dataclass
class Outcome:
    """What a run did and what it found."""

    cases: Counter[str] = field(default_factory=Counter)
    """By phase."""
    checks: Counter[str] = field(default_factory=Counter)
    """How often each was made."""
    statuses: Counter[int] = field(default_factory=Counter)
    operations: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


@contextmanager
def fake_server(folder: Path) -> Iterator[RunningServer]:
    """The whole server with a fresh data folder and the engine that needs no weights."""
    (folder / "cache").mkdir()
    with running_server(folder / "data", folder / "cache", "--engine", "fake") as server:
        yield server


def conform(server: RunningServer, seed: int, examples: int, steps: int) -> Outcome:
    """Test everything that the document describes, each operation with at least `examples` cases of a mode."""
    generation = GenerationConfig(max_examples=examples, database="none")
    project = ProjectConfig(
        headers=server.authorization,
        request_timeout=ANSWER_SECONDS,
        continue_on_failure=True,
        generation=generation,
        phases=PhasesConfig(stateful=StatefulPhaseConfig(max_steps=steps, generation=generation)),
    )
    config = schemathesis.Config(seed=seed, projects=ProjectsConfig(default=project))
    outcome = Outcome()
    with supplied(server):
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config)
        for event in from_schema(schema).execute():
            _note(event, outcome)
    return outcome


def _note(event: events.EngineEvent, outcome: Outcome) -> None:
    if isinstance(event, events.ScenarioFinished):
        recorder = event.recorder
        outcome.cases[event.phase.value] += len(recorder.interactions)
        for case_id, interaction in recorder.interactions.items():
            outcome.operations.add(recorder.cases[case_id].value.operation.label)
            if interaction.response is not None:
                outcome.statuses[interaction.response.status_code] += 1
        for case_id, checks in recorder.checks.items():
            for check in checks:
                outcome.checks[check.name] += 1
                if check.status == Status.FAILURE:
                    outcome.failures.append(_told(event, case_id, check))
    elif isinstance(event, events.NonFatalError):
        outcome.failures.append(f"{event.label}: {event.value!r}")
    elif isinstance(event, events.FatalError):
        raise event.exception
    elif isinstance(event, events.EngineFinished):
        outcome.failures += [str(failure) for failure in event.failures]
        if event.stop_reason is not StopReason.COMPLETED:
            outcome.failures.append(f"stopped: {event.stop_reason}")


def _told(event: events.ScenarioFinished, case_id: str, check: object) -> str:
    recorder = event.recorder
    case, interaction = recorder.cases[case_id].value, recorder.interactions.get(case_id)
    failure = check.failure_info.failure
    answer = interaction.response if interaction else None
    got = "" if answer is None else f"{answer.status_code} {answer.text[:600]}"
    return f"{event.phase.value} {case.operation.label}\n{failure.title}: {failure.message[:800]}\n{check.failure_info.code_sample[:1500]}\n{got}"
