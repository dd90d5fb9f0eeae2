"""What `gemlora evaluate` does with a file of cases: read, ask, score, and note how it was done."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from httpx2 import AsyncClient

from gemlora import __version__
from gemlora.app.scoring import Exchange
from gemlora.cli.progress import ProgressBar
from gemlora.cli.targets import Target
from gemlora.errors import EvaluationInvalid, ServerRefused
from gemlora.evaluation.asking import Asked, Asker, Contender, Server, Settings
from gemlora.evaluation.cases import Case, Cases, read_cases
from gemlora.evaluation.results import NATS, Evaluation, Measure, find, score_answers
from gemlora.evaluation.scorers import Scorer, check_cases
from gemlora.evaluation.statistics import Bootstrap

LIKELIHOOD = "nll"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of an evaluation; the first contender is what the others are compared with."""

    contenders: tuple[Contender, ...]
    scorers: tuple[Scorer, ...]
    perplexity: bool
    settings: Settings
    bootstrap: Bootstrap


def evaluate_cases(target: Target, path: Path, wanted: Wanted) -> Evaluation:
    """Everything about the cases of a file. Raises `EvaluationInvalid` before anything is asked, then `ServerRefused`,
    also if no answer came at all.
    """
    if not wanted.contenders:
        raise EvaluationInvalid("There is nothing to evaluate: name an --adapter, or leave out --no-base")
    cases = read_cases(path)
    check_cases(cases, wanted.scorers)
    exchanges = [_exchange(cases, case) for case in cases.cases] if wanted.perplexity else []
    began = datetime.now(UTC)
    # Asked first: a server that starts for it puts the starter adapters where the likelihoods look for them.
    server, asked = _ask(target, cases.cases, wanted)
    if len(asked.failures) == len(cases.cases) * len(wanted.contenders):
        raise ServerRefused(f"No answer came: {asked.failures[0]}")
    likelihoods = [_likelihoods(target, exchanges, wanted.contenders)] if wanted.perplexity else []
    measures = (*score_answers(cases, asked.answers, wanted.scorers), *likelihoods)
    return Evaluation(
        cases=cases,
        contenders=wanted.contenders,
        asked=asked,
        measures=measures,
        findings=find(measures, wanted.contenders, wanted.bootstrap),
        facts=_facts(cases, wanted, server, asked, began),
    )


def _ask(target: Target, cases: Sequence[Case], wanted: Wanted) -> tuple[Server, Asked]:
    with ProgressBar() as starting, ProgressBar(counts="answers") as answering:

        async def work(client: AsyncClient) -> tuple[Server, Asked]:
            starting.close()
            asker = Asker(client, wanted.settings)
            server = await asker.server()
            answering("Asking for", 0, len(cases) * len(wanted.contenders))
            asked = await asker.ask(cases, wanted.contenders, lambda done, total: answering("Asking for", done, total))
            return server, asked

        return target.converse(work, starting)


def _likelihoods(target: Target, exchanges: Sequence[Exchange], contenders: Sequence[Contender]) -> Measure:
    """How unlikely the expected answers are, as the mean of their tokens; each token of all cases counts the same."""
    adapters = [contender.adapter for contender in contenders]
    with ProgressBar() as preparing, ProgressBar(counts="answers") as reading:
        found = target.likelihoods(
            exchanges, adapters, preparing, lambda done, total: reading("Reading the expected", done, total)
        )
    values = [[-one.log_probability / one.tokens for one in row] for row in found]
    weights = [row[0].tokens for row in found]
    return Measure(LIKELIHOOD, np.array(values), np.array(weights, np.float64), NATS, lower_is_better=True)


def _exchange(cases: Cases, case: Case) -> Exchange:
    if not case.accepted or not case.accepted[0]:
        raise EvaluationInvalid(f"{cases.name}, line {case.line}: nothing is expected, but --perplexity reads that")
    messages = case.inputs.get("messages") or [{"role": "user", "content": case.inputs["prompt"]}]
    return Exchange(tuple((message["role"], message["content"]) for message in messages), case.accepted[0])


def _facts(cases: Cases, wanted: Wanted, server: Server, asked: Asked, began: datetime) -> dict[str, str]:
    settings, bootstrap = wanted.settings, wanted.bootstrap
    served = {
        contender.label: next((row[column].served_by for row in asked.answers if row[column].served_by), None)
        for column, contender in enumerate(wanted.contenders)
    }
    total = len(cases.cases) * len(wanted.contenders)
    return {
        "Model": server.model,
        "Server says": server.notice,
        "Weights": f"{server.weights}, {server.quantization}",
        **{f"Answers of {label}": name or "not said by whom" for label, name in served.items()},
        "Cases": f"{len(cases.cases)} of {cases.name}, SHA-256 {cases.digest}",
        "Sampling": f"temperature {settings.temperature:g}, seed {settings.seed}, at most {settings.max_tokens} tokens",
        "Scores": ", ".join(
            [*(scorer.name for scorer in wanted.scorers), *([LIKELIHOOD] if wanted.perplexity else [])]
        ),
        "Intervals": f"95 %, paired bootstrap over cases, {bootstrap.resamples} resamples, seed {bootstrap.seed}",
        "Answers": f"{total - len(asked.failures)} of {total}, {settings.concurrency} requests at once, "
        f"each sent at most {settings.tries} times",
        "Speed": f"{asked.tokens} tokens in {asked.seconds:.1f} s, {asked.rate:.1f} a second",
        "Began": began.isoformat(timespec="seconds"),
        "gemlora": __version__,
    }
