"""Schemathesis on the document that the server serves: every operation, phase, check and mode."""

import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from schemathesis.checks import CHECKS
from schemathesis.config import (
    CoveragePhaseConfig,
    GenerationConfig,
    OperationConfig,
    OperationsConfig,
    ProjectConfig,
    ProjectsConfig,
    StatefulPhaseConfig,
)
from schemathesis.config import PhasesConfig as Phases
from schemathesis.engine import Status, StopReason, events, from_schema
from schemathesis.engine.recorder import CheckNode, ScenarioRecorder
from schemathesis.filters import FilterSet
from tests.conformance.valid import supplied
from tests.e2e.running_server import RunningServer, running_server

PHASES = ("examples", "coverage", "fuzzing", "stateful")
ANSWER_SECONDS = 60
SHOWN = 2000
"""Characters of an answer that are shown."""


@dataclass
class Outcome:
    """What was tried and what was found."""

    cases: Counter[str] = field(default_factory=Counter)
    """By phase."""
    checks: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    described: set[str] = field(default_factory=set)
    """All operations of the document."""
    operations: set[str] = field(default_factory=set)
    """Those that were tried."""
    failures: list[str] = field(default_factory=list)

    @property
    def untried(self) -> set[str]:
        """Operations, phases and checks of which there was no case."""
        wanted = {*self.described, *PHASES, *CHECKS.get_all_names()}
        return wanted - {*self.operations, *(+self.cases), *self.checks}


@contextmanager
def fake_server(folder: Path) -> Iterator[RunningServer]:
    """The whole server with a fresh data folder and the engine that needs no weights."""
    (folder / "cache").mkdir()
    with running_server(folder / "data", folder / "cache", "--engine", "fake") as server:
        yield server


def conform(server: RunningServer, outcome: Outcome, *, seed: int, examples: int, steps: int, share: int = 1) -> None:
    """Try all that the document describes and add to the outcome.

    Fuzzing makes at most `examples` cases of an operation, and so many sequences of at most `steps` of them. What
    covers the schemas is thousands of cases: it is made of one operation of `share`, as the seed has it.
    """
    generation = GenerationConfig(max_examples=examples, database="none")
    project = ProjectConfig(
        base_url=server.url,
        headers=server.authorization,
        request_timeout=ANSWER_SECONDS,
        continue_on_failure=True,
        generation=generation,
        phases=Phases(stateful=StatefulPhaseConfig(max_steps=steps, generation=generation)),
        operations=OperationsConfig(operations=[] if share == 1 else [_uncovered(seed, share)]),
    )
    config = schemathesis.Config(seed=seed, projects=ProjectsConfig(default=project))
    with supplied(server):
        # By its address, Schemathesis would leave out the route that serves it.
        document = requests.get(f"{server.url}/openapi.json", timeout=ANSWER_SECONDS).json()
        outcome.described |= _operations(document)
        for event in from_schema(schemathesis.openapi.from_dict(document, config=config)).execute():
            _note(event, outcome)


def _operations(document: dict[str, Any]) -> set[str]:
    """Their labels, as Schemathesis has them."""
    places = document["paths"].items()
    return {f"{method.upper()} {place}" for place, methods in places for method in methods if method != "parameters"}


def _uncovered(seed: int, share: int) -> OperationConfig:
    others = FilterSet()
    others.include(lambda context: zlib.crc32(f"{seed} {context.operation.label}".encode()) % share != 0)
    return OperationConfig(filter_set=others, phases=Phases(coverage=CoveragePhaseConfig(enabled=False)))


def _note(event: events.EngineEvent, outcome: Outcome) -> None:
    match event:
        case events.ScenarioFinished():
            _note_scenario(event, outcome)
        case events.NonFatalError():
            outcome.failures.append(f"{event.phase and event.phase.value} {event.label}: {event.value!r}")
        case events.FatalError():
            raise event.exception
        case events.EngineFinished():
            outcome.failures += [str(failure) for failure in event.failures]
            if event.stop_reason is not StopReason.COMPLETED:
                outcome.failures.append(f"ended early: {event.stop_reason}")


def _note_scenario(event: events.ScenarioFinished, outcome: Outcome) -> None:
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
                outcome.failures.append(f"{event.phase.value} {_told(recorder, case_id, check)}")


def _told(recorder: ScenarioRecorder, case_id: str, check: CheckNode) -> str:
    """A failed check with what repeats its request, and the answer."""
    label = recorder.cases[case_id].value.operation.label
    found, interaction = check.failure_info, recorder.interactions.get(case_id)
    answer = interaction.response if interaction else None
    said = "no answer" if answer is None else f"{answer.status_code} {answer.text[:SHOWN]}"
    if found is None:
        return f"{label}\n{check.name}\n{said}"
    return f"{label}\n{found.failure.title}: {found.failure.message}\n{found.code_sample}\n{said}"
