"""`gemlora evaluate`: the base against adapters on cases of the user's own, and pairs judged in the playground."""

import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gemlora.cli.evaluating import Wanted, evaluate_cases
from gemlora.cli.options import with_target
from gemlora.cli.tables import print_table, shown
from gemlora.cli.targets import Target
from gemlora.errors import EvaluationInvalid
from gemlora.evaluation.asking import Contender, Settings
from gemlora.evaluation.judgements import Judged, read_judgements
from gemlora.evaluation.report import report_page
from gemlora.evaluation.results import Evaluation, Finding, as_json, shown_interval
from gemlora.evaluation.scorers import BUILT_IN, find_scorers
from gemlora.evaluation.statistics import Bootstrap
from gemlora.storage.files import storage_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DEFAULT_SCORERS = ("exact", "f1")
HEADS = ("SCORE", "OF", "CASES", "MEAN", "DIFFERENCE", "WON/TIED/LOST")


@app.command()
@with_target(
    "cache_dir", "model", "weights", "revision", "hub_token", "quantize", "engine", "threads", "context_window"
)
def evaluate(
    target: Target,
    cases: Annotated[
        Path | None, typer.Argument(metavar="CASES", help="JSONL file, one case a line.", show_default=False)
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Adapter to evaluate; may be repeated.", show_default=False)
    ] = None,
    base: Annotated[
        bool, typer.Option("--base/--no-base", help="Compare with the base; --no-base: with the first adapter.")
    ] = True,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCORER",
            help=f"{', '.join(BUILT_IN)} or MODULE:FUNCTION; may be repeated. Default: {', '.join(DEFAULT_SCORERS)}.",
            show_default=False,
        ),
    ] = None,
    perplexity: Annotated[
        bool, typer.Option("--perplexity", help="Also how likely the expected answers are; needs the data directory.")
    ] = False,
    judgements: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Comparisons judged and exported in the playground.", show_default=False),
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="HTML file to write.", show_default=False)] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="JSON file to write.", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=5, help="0 takes the most likely token.")] = 0,
    seed: Annotated[int, typer.Option(min=1, max=9_999_999_999, help="Of the answers and of the bootstrap.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 16,
    tries: Annotated[int, typer.Option(min=1, help="How often a request is sent before it counts as failed.")] = 5,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 10_000,
) -> None:
    """Compare adapters with the base on cases of your own.

    Asks a server, or the one that runs on the data directory; without one it is started for the evaluation.
    """
    for path in (report, json_file):
        _check_folder(path)
    judged = read_judgements(judgements) if judgements is not None else ()
    evaluation = None
    if cases is not None:
        names: list[str | None] = [None] if base else []
        wanted = Wanted(
            contenders=tuple(map(Contender, [*names, *dict.fromkeys(adapter or ())])),
            scorers=find_scorers(scorer or DEFAULT_SCORERS),
            perplexity=perplexity,
            settings=Settings(target.model, max_tokens, temperature, seed, concurrency, tries),
            bootstrap=Bootstrap(resamples, seed),
        )
        evaluation = evaluate_cases(target, cases, wanted)
        _tell(evaluation)
    elif judgements is None:
        raise EvaluationInvalid("Name a file of cases, or --judgements")
    _tell_judged(judged)
    if json_file is not None:
        _write(json_file, json.dumps(as_json(evaluation, judged), indent=2, ensure_ascii=False) + "\n")
    if report is not None:
        _write(report, report_page(evaluation, judged))


def _tell(evaluation: Evaluation) -> None:
    print_table(HEADS, list(map(_row, evaluation.findings)))
    for finding in evaluation.findings:
        if finding.sentence:
            print(shown(finding.sentence))
    if failures := evaluation.asked.failures:
        total = len(evaluation.cases.cases) * len(evaluation.contenders)
        print(
            f"Warning: {len(failures)} of {total} answers are missing and have no score: {shown(failures[0])}",
            file=sys.stderr,
        )


def _row(finding: Finding) -> tuple[object, ...]:
    difference = finding.difference
    return (
        finding.measure.name,
        finding.contender.label,
        finding.scored,
        None if finding.mean is None else shown_interval(finding.mean),
        None if difference is None else shown_interval(difference.mean, signed=True),
        None if difference is None else f"{difference.won}/{difference.tied}/{difference.lost}",
    )


def _tell_judged(judgements: Sequence[Judged]) -> None:
    for judged in judgements:
        share = "-" if judged.share is None else shown_interval(judged.share)
        print(
            f"{shown(judged.right)} beside {shown(judged.left)}, judged by hand: {judged.better} better, "
            f"{judged.same} same, {judged.worse} worse, {judged.open} not judged; share better {share}, "
            f"p = {judged.p:.3f}: {judged.verdict}"
        )


def _check_folder(path: Path | None) -> None:
    """Before everything is asked, not after it."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise EvaluationInvalid(f"{path} cannot be written: " + ("a folder" if path.is_dir() else "no such folder"))


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with storage_errors(f"write {path}"):
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    print(f"Wrote {path}")
