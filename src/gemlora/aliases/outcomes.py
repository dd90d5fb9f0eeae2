"""Outcomes of answers: counted for the revision that they came from, and shown to its test, which may roll back."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from structlog.typing import FilteringBoundLogger

from gemlora.aliases.records import BY_TEST, Action, Alias, Revision, Standing, Trial, Version
from gemlora.aliases.repository import AliasChanges
from gemlora.aliases.sequential import Arm, Evidence, Verdict


class Outcomes:
    """What counts them, within transactions of others."""

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._clock = clock

    async def count(
        self, changes: AliasChanges, alias: Alias, revision: Revision, version: Version, value: float
    ) -> Alias:
        """Count an outcome in [0, 1] of one of the alias's revisions. The alias as a verdict leaves it."""
        await changes.count_outcome(alias, revision.number, version, value)
        trial = revision.trial
        if trial is None or revision.number != alias.current.number or not trial.compares(version.name):
            return alias
        evidence, standing = await changes.evidence(alias)
        if standing.verdict is not Verdict.RUNNING:
            return alias
        arm = Arm.CANDIDATE if version.name == trial.candidate else Arm.CONTROL
        evidence.add(arm, 1 - value if trial.lower_is_better else value, trial.design)
        verdict = _verdict(trial, evidence, standing)
        await changes.save_evidence(alias, evidence, verdict)
        return alias if verdict is Verdict.RUNNING else await self._ended(changes, alias, trial, verdict)

    async def _ended(self, changes: AliasChanges, alias: Alias, trial: Trial, verdict: Verdict) -> Alias:
        self._log.info("test of alias ended", alias=alias.id, revision=alias.current.number, verdict=verdict.value)
        if verdict is not Verdict.WORSE or not trial.rolls_back:
            return alias
        note = f"{trial.candidate} is worse than {trial.control} in {trial.metric}"
        versions = _withdrawn(alias.current, trial)
        revision = Revision(alias.current.number + 1, self._clock(), BY_TEST, Action.ROLLBACK, note, versions)
        await changes.append(alias, revision)
        return logged(self._log, replace(alias, current=revision))


def logged(log: FilteringBoundLogger, alias: Alias) -> Alias:
    """The alias, once its new revision is told to the log."""
    current = alias.current
    log.info("alias changed", alias=alias.id, revision=current.number, action=current.action.value, by=current.made_by)
    return alias


def _verdict(trial: Trial, evidence: Evidence, standing: Standing) -> Verdict:
    verdict = evidence.verdict(trial.design)
    compared = [tally for tally in standing.tallies if trial.compares(tally.version)]
    if verdict is Verdict.RUNNING and all(tally.outcomes >= (trial.sample or 0) for tally in compared):
        return Verdict.NO_DIFFERENCE
    return verdict


def _withdrawn(revision: Revision, trial: Trial) -> tuple[Version, ...]:
    """The versions with the candidate's weight moved to the control, and the candidate no shadow any more."""
    moved = sum(version.weight for version in revision.versions if version.name == trial.candidate)
    change = {trial.candidate: -moved, trial.control: moved}
    return tuple(
        replace(
            one,
            weight=one.weight + change.get(one.name, 0.0),
            shadow=0.0 if one.name == trial.candidate else one.shadow,
        )
        for one in revision.versions
    )
