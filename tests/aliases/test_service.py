"""Aliases in a real database: their revisions, who may see them, what they protect, and what their test decides."""

import asyncio

import numpy as np
import pytest
from tests.aliases.conftest import ALICE, BOB, NOW, adapter

from gemlora.aliases.records import BY_TEST, Action, Alias, Share, Trial
from gemlora.aliases.sequential import Design, Verdict
from gemlora.aliases.service import Aliases, Wanted
from gemlora.errors import (
    AdapterExists,
    AdapterIncomplete,
    AdapterNotFound,
    AliasNotFound,
    InvalidRequest,
    StillNeeded,
    TooManyAliases,
)
from gemlora.registry.repository import AdapterRepository
from gemlora.storage.database import Database


def wanted(trial: Trial | None = None, note: str = "", **weights: float) -> Wanted:
    shares = tuple(Share(name.replace("_", "-"), weight) for name, weight in weights.items())
    return Wanted(shares, "token", note, trial)


def weights(alias: Alias) -> dict[str, float]:
    return {version.name: version.weight for version in alias.current.versions}


async def test_each_change_is_a_revision_and_a_rollback_undoes_the_last_one(aliases: Aliases) -> None:
    await aliases.create(ALICE, "bot", wanted(old=1, note="first"))
    await aliases.change(ALICE, "bot", wanted(old=90, new=10))
    promoted = await aliases.promote(ALICE, "bot", "new", "other token")
    assert weights(promoted) == {"old": 0, "new": 1}

    back = await aliases.roll_back(ALICE, "bot", "token", "alarm")

    assert await aliases.find(ALICE, "bot") == back
    assert weights(back) == {"old": 90, "new": 10}
    assert weights(await aliases.roll_back(ALICE, "bot", "token", number=1)) == {"old": 1}
    total, log = await aliases.revisions(ALICE, "bot", 1, 3)
    assert total == 5
    assert [(one.number, one.action, one.made_by, one.note) for one, _ in log] == [
        (4, Action.ROLLBACK, "token", "alarm"),
        (3, Action.PROMOTE, "other token", ""),
        (2, Action.SET, "token", ""),
    ]


async def test_versions_are_own_adapters_public_ones_and_the_base(aliases: Aliases) -> None:
    alias = await aliases.create(ALICE, "bot", wanted(new=1, cf_public_chat=2, cf_public_base=3))

    assert [version.adapter for version in alias.current.versions] == [
        adapter("new").id, "cf-public-chat", "cf-public-base",
    ]  # fmt: skip
    assert await aliases.list(ALICE) == (alias,)
    assert await aliases.list(BOB) == ()


REFUSED = [
    (wanted(), InvalidRequest),
    (wanted(old=0, new=0), InvalidRequest),
    (wanted(old=-1, new=2), InvalidRequest),
    (wanted(old=float("nan"), new=1), InvalidRequest),
    (wanted(old=1, new=1, cf_public_base=1, cf_public_chat=1), InvalidRequest),
    (Wanted((Share("old", 1), Share(adapter("old").id, 1)), "token"), InvalidRequest),
    (wanted(old=1, note="\0"), InvalidRequest),
    (wanted(nobody=1), AdapterNotFound),
    (wanted(foreign=1), AdapterNotFound),
    (wanted(half=1), AdapterIncomplete),
    (wanted(Trial("old", "new", "good", False, Design(0.1)), old=1), InvalidRequest),
    (wanted(Trial("old", "new", "good", False, Design(0.1)), old=1, new=0), InvalidRequest),
    (wanted(Trial("old", "new", "good", False, Design(0.1), 10), old=1, new=1), InvalidRequest),
    (wanted(Trial("old", "new", "", False, Design(0.1)), old=1, new=1), InvalidRequest),
    (wanted(Trial("old", "new", "good", False, Design(2)), old=1, new=1), InvalidRequest),
]


async def test_what_cannot_be_served_or_compared_is_refused(aliases: Aliases) -> None:
    for described, error in REFUSED:
        with pytest.raises(error):
            await aliases.create(ALICE, "bot", described)

    assert await aliases.list(ALICE) == ()


async def test_adapters_and_aliases_share_their_names_and_aliases_have_a_limit(
    aliases: Aliases, database: Database
) -> None:
    rows = AdapterRepository(database)
    with pytest.raises(AdapterExists):
        await aliases.create(ALICE, "old", wanted(new=1))
    await aliases.create(BOB, "old", wanted(foreign=1))
    await aliases.create(ALICE, "bot", wanted(new=1))
    with pytest.raises(AdapterExists):
        await aliases.create(ALICE, "bot", wanted(new=1))
    with pytest.raises(AdapterExists):
        await rows.add(adapter("bot"))
    with pytest.raises(AdapterExists):
        await rows.rename(await rows.find(ALICE, "old"), "bot", NOW)
    await asyncio.gather(*(aliases.create(ALICE, name, wanted(new=1)) for name in ("two", "three")))
    with pytest.raises(TooManyAliases):
        await aliases.create(ALICE, "four", wanted(new=1))


async def test_of_an_adapter_and_an_alias_that_want_a_name_together_one_gets_it(
    aliases: Aliases, database: Database
) -> None:
    both = (aliases.create(ALICE, "bot", wanted(new=1)), AdapterRepository(database).add(adapter("bot")))
    results = await asyncio.gather(*both, return_exceptions=True)

    assert [type(result) for result in results].count(AdapterExists) == 1


async def test_an_adapter_that_an_alias_points_to_or_would_after_a_rollback_stays(
    aliases: Aliases, database: Database
) -> None:
    rows = AdapterRepository(database)
    await aliases.create(ALICE, "bot", wanted(old=1))
    await aliases.create(ALICE, "chatty", wanted(cf_public_chat=1))
    await aliases.change(ALICE, "bot", wanted(new=1))
    for name in ("old", "new"):
        with pytest.raises(StillNeeded, match="bot"):
            await rows.remove(ALICE, name)
    await aliases.promote(ALICE, "bot", "new", "token")

    await rows.remove(ALICE, "old")
    await rows.remove(BOB, "cf-public-chat")  # what others point to does not bind whoever published it
    with pytest.raises(AdapterNotFound):
        await aliases.roll_back(ALICE, "bot", "token", number=1)
    await aliases.remove(ALICE, "bot")
    await rows.remove(ALICE, "new")


async def test_what_is_not_there_or_foreign_is_not_found(aliases: Aliases) -> None:
    await aliases.create(ALICE, "bot", wanted(old=1))

    for failing in (
        aliases.find(BOB, "bot"),
        aliases.find(ALICE, "b\0t"),
        aliases.change(BOB, "bot", wanted(foreign=1)),
        aliases.promote(ALICE, "bot", "new", "token"),
        aliases.roll_back(ALICE, "bot", "token"),
        aliases.roll_back(ALICE, "bot", "token", number=1),
        aliases.report(ALICE, "bot", "new", 1),
        aliases.report(ALICE, "bot", "old", 1, 2),
        aliases.remove(BOB, "bot"),
    ):
        with pytest.raises(AliasNotFound):
            await failing


async def test_outcomes_are_counted_for_the_revision_that_they_came_from(aliases: Aliases) -> None:
    await aliases.create(ALICE, "bot", wanted(old=1, new=1))
    await aliases.report(ALICE, "bot", "old", 1)
    await aliases.report(ALICE, "bot", adapter("old").id, 0.5)
    await aliases.promote(ALICE, "bot", "new", "token")

    _, standing = await aliases.report(ALICE, "bot", "old", 0, number=1)

    assert [(tally.version, tally.outcomes) for tally in standing.tallies] == [("old", 0), ("new", 0)]
    _, (_, (_, first)) = await aliases.revisions(ALICE, "bot", 0, 10)
    assert [(tally.outcomes, tally.total) for tally in first.tallies] == [(3, 1.5), (0, 0)]
    assert first.verdict is None
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidRequest):
            await aliases.report(ALICE, "bot", "old", value)


@pytest.mark.parametrize("lower_is_better", [False, True])
@pytest.mark.parametrize("rolls_back", [False, True])
async def test_a_worse_candidate_loses_its_traffic_at_once_if_the_test_says_so(
    aliases: Aliases, lower_is_better: bool, rolls_back: bool
) -> None:
    trial = Trial("old", "new", "solved", lower_is_better, Design(0.4), rolls_back=rolls_back)
    await aliases.create(ALICE, "bot", wanted(trial, old=70, new=30))
    random = np.random.default_rng(1)
    for _ in range(trial.design.planned_sample):
        good, bad = float(random.random() < 0.9), float(random.random() < 0.2)
        outcomes = {"old": good, "new": bad} if not lower_is_better else {"old": 1 - good, "new": 1 - bad}
        for name, value in outcomes.items():
            alias, standing = await aliases.report(ALICE, "bot", name, value, number=1)
        if alias.current.number > 1 or standing.verdict is Verdict.WORSE:
            break

    total, log = await aliases.revisions(ALICE, "bot", 0, 10)
    assert log[-1][1].verdict is Verdict.WORSE
    assert total == 1 + rolls_back
    if rolls_back:
        assert weights(alias) == {"old": 100, "new": 0}
        assert (alias.current.made_by, alias.current.action) == (BY_TEST, Action.ROLLBACK)
        assert alias.current.note == "new is worse than old in solved"
        assert standing.verdict is None


async def test_a_test_without_a_difference_ends_with_its_sample(aliases: Aliases) -> None:
    trial = Trial("old", "new", "solved", False, Design(0.9, power=0.5))
    alias = await aliases.create(ALICE, "bot", wanted(trial, old=1, new=1))
    assert alias.current.trial is not None
    assert alias.current.trial.sample == trial.design.planned_sample
    verdicts = []
    for number in range(trial.design.planned_sample):
        for name in ("old", "new"):
            _, standing = await aliases.report(ALICE, "bot", name, number % 2)
            verdicts.append(standing.verdict)

    assert verdicts[-1] is Verdict.NO_DIFFERENCE
    assert set(verdicts[:-1]) == {Verdict.RUNNING}
