"""Shadows in a real database: what is counted and kept of them, for how long, for whom, and what a test makes of it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.aliases.conftest import ALICE, BOB, NOW, adapter

from gemlora.aliases.pairs import PairRepository
from gemlora.aliases.records import BY_TEST, Alias, Share, Trial
from gemlora.aliases.repository import AliasRepository
from gemlora.aliases.sequential import Design, Verdict
from gemlora.aliases.service import Aliases, Wanted
from gemlora.aliases.shadowing import KeepingRules, ShadowRecords
from gemlora.aliases.shadows import MEASURES, Facts, Pair, Place, ShadowCounts
from gemlora.errors import AliasNotFound, InvalidRequest, OutcomesMeasured, StillNeeded
from gemlora.registry.repository import AdapterRepository
from gemlora.storage.database import Database
from gemlora.telemetry.logs import create_logger

FACTS = Facts("stop", 10, 100, 42, 0, json=True, seconds=0.5)
CUT = replace(FACTS, finish_reason="length", completion_tokens=100, json=False)
SHADOW = (Share("old", 1), Share("new", 0, 0.5))
DESIGN = Design(0.9, power=0.5)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def records(database: Database, clock: Clock) -> ShadowRecords:
    rules = KeepingRules(pairs=3, text_seconds=60)
    repositories = AliasRepository(database), PairRepository(database)
    return ShadowRecords(*repositories, rules, create_logger("error"), clock)


def place(alias: Alias, version: str = "new") -> Place:
    return Place(alias.account_id, alias.id, alias.name, alias.current.number, version)


def pair(
    alias: Alias, served: Facts = FACTS, shadow: Facts | None = CUT, by: str = "old", made: datetime = NOW
) -> Pair:
    error = None if shadow is not None else "AdapterInvalid"
    texts = {"messages": [], "served": {"response": "\0 \ud800"}, "shadow": None}
    return Pair(place(alias), "request", made, by, served, shadow, error, texts=texts)


async def counts(aliases: Aliases, alias: Alias) -> Mapping[str, ShadowCounts]:
    return {tally.version: tally.shadow for tally in (await aliases.standing(alias)).tallies}


async def serials(records: ShadowRecords, account_id: str = ALICE) -> list[int]:
    total, kept = await records.list(account_id, "bot", 0, 10)
    assert total == len(kept)
    return [one.serial for one in kept]


async def test_runs_are_counted_and_the_newest_pairs_kept_as_long_as_their_alias(
    aliases: Aliases, records: ShadowRecords
) -> None:
    alias = await aliases.create(ALICE, "bot", Wanted(SHADOW, "token"))
    first = [pair(alias), pair(alias, shadow=None)]
    await records.save(first, {place(alias): 5})
    assert (await counts(aliases, alias))["new"] == ShadowCounts(1, 5, 1)
    total, (failed, answered) = await records.list(ALICE, "bot", 0, 10)
    assert (total, failed.serial, failed.pair, answered.pair) == (2, 2, first[1], first[0])
    await aliases.change(ALICE, "bot", Wanted(SHADOW, "token"))  # what ends now is still of the first revision

    await records.save([pair(alias)] * 3, {place(alias): 1, place(alias, "gone"): 1})

    assert await serials(records) == [5, 4, 3]
    assert [one.serial for one in (await records.list(ALICE, "bot", 1, 1))[1]] == [4]
    _, log = await aliases.revisions(ALICE, "bot", 0, 2)
    assert [standing.tallies[1].shadow for _, standing in log] == [ShadowCounts(), ShadowCounts(4, 6, 1)]
    with pytest.raises(AliasNotFound):
        await records.list(BOB, "bot", 0, 10)

    await aliases.remove(ALICE, "bot")
    again = await aliases.create(ALICE, "bot", Wanted(SHADOW, "token"))
    await records.save([pair(alias)], {place(alias): 1})
    assert await serials(records) == []
    assert (await counts(aliases, again))["new"] == ShadowCounts()


async def test_texts_are_forgotten_in_time(aliases: Aliases, records: ShadowRecords, clock: Clock) -> None:
    alias = await aliases.create(ALICE, "bot", Wanted(SHADOW, "token"))
    await records.save([pair(alias), pair(alias, made=NOW + timedelta(seconds=30))], {})
    clock.now = NOW + timedelta(seconds=61)

    await records.forget_texts()

    _, (newer, older) = await records.list(ALICE, "bot", 0, 10)
    assert (older.pair, newer.pair.texts) == (replace(pair(alias), texts=None), pair(alias).texts)
    assert records.keeps_texts


async def test_a_test_that_the_server_measures_ends_by_pairs_alone(aliases: Aliases, records: ShadowRecords) -> None:
    trial = Trial("old", "new", "ended", False, DESIGN, rolls_back=True, measured=True)
    shares = (Share("old", 1), Share("cf-public-base", 1), Share("new", 0, 0.5))
    alias = await aliases.create(ALICE, "bot", Wanted(shares, "token", trial=trial))
    for version in ("old", "new"):
        with pytest.raises(OutcomesMeasured):
            await aliases.report(ALICE, "bot", version, 1)
    await aliases.report(ALICE, "bot", "cf-public-base", 1)
    await records.save([pair(alias, by="cf-public-base"), pair(alias, shadow=None)], {})
    assert [tally.outcomes for tally in (await aliases.standing(alias)).tallies] == [0, 1, 0]

    await records.save([pair(alias)] * trial.design.planned_sample, {})

    now = await aliases.find(ALICE, "bot")
    assert (now.current.made_by, now.current.note) == (BY_TEST, "new is worse than old in ended")
    assert [(one.name, one.weight, one.shadow) for one in now.current.versions] == [
        ("old", 1, 0), ("cf-public-base", 1, 0), ("new", 0, 0),
    ]  # fmt: skip
    standing = await aliases.standing(alias)
    assert standing.verdict is Verdict.WORSE
    control, _, candidate = standing.tallies
    assert control.outcomes == candidate.outcomes < trial.design.planned_sample
    assert (control.total, candidate.total) == (control.outcomes, 0)


async def test_pairs_without_a_difference_end_a_test_with_its_sample(aliases: Aliases, records: ShadowRecords) -> None:
    trial = Trial("old", "new", "length", True, DESIGN, measured=True)
    alias = await aliases.create(ALICE, "bot", Wanted(SHADOW, "token", trial=trial))
    sample = trial.design.planned_sample

    await records.save([pair(alias, CUT, CUT)] * (sample - 1), {})
    assert (await aliases.standing(alias)).verdict is Verdict.RUNNING
    await records.save([pair(alias, CUT, CUT)] * 5, {})

    standing = await aliases.standing(alias)
    assert standing.verdict is Verdict.NO_DIFFERENCE
    assert await aliases.find(ALICE, "bot") == alias


async def test_whoever_judges_pairs_may_report_of_a_shadow(aliases: Aliases) -> None:
    trial = Trial("old", "new", "solved", False, DESIGN)
    alias = await aliases.create(ALICE, "bot", Wanted(SHADOW, "token", trial=trial))
    for _ in range(trial.design.planned_sample):
        await aliases.report(ALICE, "bot", "old", 0)
        await aliases.report(ALICE, "bot", "new", 1)

    assert (await aliases.standing(alias)).verdict is Verdict.BETTER


async def test_a_shadow_that_is_promoted_serves_and_a_rollback_makes_it_a_shadow_again(aliases: Aliases) -> None:
    shares = (*SHADOW, Share("cf-public-chat", 0, 0.1))
    before = await aliases.create(ALICE, "bot", Wanted(shares, "token"))

    promoted = await aliases.promote(ALICE, "bot", "new", "token")
    back = await aliases.roll_back(ALICE, "bot", "token")

    assert [(one.weight, one.shadow) for one in promoted.current.versions] == [(0, 0), (1, 0), (0, 0.1)]
    assert back.current.versions == before.current.versions


async def test_the_adapter_of_a_shadow_stays(aliases: Aliases, database: Database) -> None:
    await aliases.create(ALICE, "bot", Wanted(SHADOW, "token"))

    with pytest.raises(StillNeeded, match="bot"):
        await AdapterRepository(database).remove(ALICE, adapter("new").id)


REFUSED = [
    Wanted((Share("old", 0), Share("new", 0, 0.5)), "token"),
    Wanted((Share("old", 1), Share("new", 0, 1.1)), "token"),
    Wanted((Share("old", 1), Share("new", 0, float("nan"))), "token"),
    *(
        Wanted(shares, "token", trial=Trial("old", "new", metric, False, DESIGN, measured=True))
        for shares, metric in ((SHADOW, "solved"), ((Share("old", 1), Share("new", 1)), "ended"))
    ),
]


async def test_what_cannot_be_a_shadow_or_be_measured_is_refused(aliases: Aliases) -> None:
    for wanted in REFUSED:
        with pytest.raises(InvalidRequest):
            await aliases.create(ALICE, "bot", wanted)


def test_measures_are_from_0_to_1() -> None:
    assert {name: (measure(FACTS), measure(CUT)) for name, measure in MEASURES.items()} == {
        "ended": (1, 0), "json": (1, 0), "length": (0.1, 1),
    }  # fmt: skip
