"""Shadow runs over a fake engine: they see the same request, nobody sees them, and they take nothing from requests."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from tests.api.parts import ALICE, MODEL, Parts
from tests.api.scripted import ScriptedEngine

from gemlora.aliases.records import Action, Alias, Revision, Version
from gemlora.aliases.shadows import Facts, Pair
from gemlora.engines.contract import EngineStats, GenerateRequest, Output
from gemlora.engines.fake import FakeEngine
from gemlora.errors import AliasNotFound, EngineFailed, GemloraError, StorageFailed
from gemlora.registry.names import BARE_BASE
from gemlora.serving.generation import Answer, fold
from gemlora.serving.prompt import Prompt
from gemlora.serving.service import RunRequest, SamplingChoice
from gemlora.serving.shadows import ShadowRules

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REQUEST = RunRequest("id", ALICE, MODEL, Prompt.of_text("Hello"), adapter="bot")
VERSIONS = (Version(BARE_BASE, 1), Version("pirate", 0, shadow=1))


class OneAlias:
    """`bot` is the base, with an adapter as its shadow."""

    def __init__(self, *versions: Version) -> None:
        self.alias = Alias("alias", ALICE, "bot", NOW, Revision(3, NOW, "token", Action.SET, "", versions or VERSIONS))

    async def find(self, account_id: str, name: str) -> Alias:
        if (account_id, name) != (ALICE, "bot"):
            raise AliasNotFound(name)
        return self.alias


class Stuck(FakeEngine):
    """Never answers as an adapter. `queued` is what it tells of its queue, step after step."""

    queued = 0
    steps = 0

    async def _outputs(
        self, request: GenerateRequest, failure: tuple[GemloraError, int] | None
    ) -> AsyncGenerator[Output, None]:
        if request.adapter is not None:
            await asyncio.Event().wait()
        async for output in super()._outputs(request, failure):
            yield output

    def stats(self) -> EngineStats:
        self.steps += 1
        return EngineStats(running=self.live, queued=self.queued, steps=self.steps)


class Counting(FakeEngine):
    """Counts what it is asked, also what it refuses."""

    asked = 0

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Output, None]:
        self.asked += 1
        return super().generate(request)


@asynccontextmanager
async def shadowed(engine: FakeEngine, *versions: Version, concurrency: int = 4) -> AsyncIterator[Parts]:
    """An application whose shadows run."""
    rules = ShadowRules(concurrency, pause_seconds=0)
    parts = Parts(engine, aliases=OneAlias(*versions), shadow_rules=rules)
    running = asyncio.create_task(parts.shadows.run())
    try:
        await asyncio.sleep(0)
        yield parts
    finally:
        running.cancel()
        await asyncio.wait([running])


async def answer(parts: Parts, request: RunRequest = REQUEST) -> Answer:
    return await fold((await parts.services.generation.start(request)).pieces())


async def until(met: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not met():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def pairs(parts: Parts, number: int = 1) -> list[Pair]:
    found: list[Pair] = parts.kept_shadows.pairs
    await until(lambda: len(found) >= number)
    return found


def dropped(parts: Parts) -> int:
    return int(parts.kept_shadows.dropped.total())


async def test_a_shadow_is_asked_the_same_and_what_it_says_is_kept_beside_what_was_served() -> None:
    engine = FakeEngine()
    alone = await answer(Parts(FakeEngine()), replace(REQUEST, adapter="", sampling=SamplingChoice(seed=7)))
    async with shadowed(engine) as parts:
        served = await answer(parts, replace(REQUEST, sampling=SamplingChoice(seed=7)))
        [pair] = await pairs(parts)

    assert served == alone
    first, second = engine.requests
    assert second.adapter is not None
    assert msgspec.structs.replace(second, adapter=None) == first
    assert (pair.shadow.account_id, pair.shadow.alias, pair.shadow.revision) == (ALICE, "bot", 3)
    assert (pair.served, pair.shadow.version, pair.request_id, pair.error) == (BARE_BASE, "pirate", "id", None)
    assert not pair.equal
    facts = Facts("stop", 24, 256, 24, 0, json=False, seconds=pair.served_facts.seconds)
    assert pair.served_facts == facts
    assert pair.texts is not None
    assert pair.texts["messages"] == [{"role": "user", "content": "Hello"}]
    assert pair.texts["served"] == {"response": served.text, "tool_calls": []}
    assert pair.texts["shadow"]["response"] != served.text


async def test_a_shadow_draws_its_tokens_with_the_caller_s_own_seed() -> None:
    engine = FakeEngine()
    async with shadowed(engine) as parts:
        await answer(parts)
        await pairs(parts)

    assert engine.requests[0].sampling == engine.requests[1].sampling


async def test_answers_are_compared_and_measured() -> None:
    async with shadowed(ScriptedEngine('{"a": 1}', "no {", "same", "same")) as parts:
        parts.kept_shadows.keeps_texts = False
        await answer(parts, replace(REQUEST, max_tokens=4000))
        [differing] = await pairs(parts)
        await answer(parts, replace(REQUEST, max_tokens=4))
        [_, equal] = await pairs(parts, 2)

    assert differing.texts is None
    assert differing.shadow_facts is not None
    assert (differing.served_facts.json, differing.shadow_facts.json, differing.equal) == (True, False, False)
    assert (differing.served_facts.characters, differing.shadow_facts.completion_tokens) == (8, 4)
    assert (equal.equal, equal.served_facts.finish_reason, equal.served_facts.max_tokens) == (True, "length", 4)


async def test_a_stream_is_the_same_and_its_shadow_begins_behind_its_end() -> None:
    engine = FakeEngine()
    async with shadowed(engine) as parts, aclosing((await parts.services.generation.start(REQUEST)).pieces()) as pieces:
        begun = [len(engine.requests) async for _ in pieces]
        assert {*begun} == {1}
        assert len(await pairs(parts)) == 1


async def test_nobody_waits_for_a_shadow_that_never_answers_and_the_end_drops_it() -> None:
    engine = Stuck()
    async with shadowed(engine) as parts:
        for number in range(1, 4):
            await answer(parts)
            await until(lambda: engine.live == number)  # noqa: B023 - called at once
        assert (parts.kept_shadows.pairs, dropped(parts)) == ([], 0)

    assert (engine.live, dropped(parts)) == (0, 3)


async def test_only_so_many_shadows_run_at_a_time() -> None:
    engine = Stuck()
    async with shadowed(engine, concurrency=1) as parts:
        await answer(parts)
        await until(lambda: engine.live == 1)
        await answer(parts)
        await until(lambda: dropped(parts) == 1)
        assert engine.live == 1


async def test_no_shadow_starts_where_a_request_would_have_to_wait() -> None:
    engine = Counting(capacity=1)
    async with shadowed(engine) as parts:
        await answer(parts)
        async with aclosing((await parts.services.generation.start(replace(REQUEST, adapter=""))).pieces()) as other:
            await anext(other)
            await until(lambda: dropped(parts) == 1)

    assert engine.asked == 2


@pytest.mark.parametrize("reject_if_busy", [False, True])
async def test_a_request_that_needs_the_place_of_a_shadow_gets_it(reject_if_busy: bool) -> None:
    engine = Stuck(capacity=1)
    async with shadowed(engine) as parts:
        await answer(parts)
        await until(lambda: engine.live == 1)
        requests = [answer(parts, replace(REQUEST, adapter="", reject_if_busy=reject_if_busy))]

        [found] = await asyncio.gather(*requests)
        await until(lambda: dropped(parts) == 1)

    assert found.ending.reason == "stop"


async def test_a_shadow_ends_as_soon_as_a_request_waits() -> None:
    engine = Stuck()
    async with shadowed(engine) as parts:
        await answer(parts)
        await until(lambda: engine.live == 1)
        engine.queued = 1

        await until(lambda: dropped(parts) == 1)

        assert engine.live == 0


@pytest.mark.parametrize("way", ["broken", "deleted", "defect"])
async def test_what_a_shadow_fails_with_is_kept_and_nobody_else_fails(way: str) -> None:
    engine = FakeEngine()
    async with shadowed(engine) as parts:
        if way == "broken":
            engine.break_adapter(parts.adapters.ready["pirate"].digest)
        elif way == "deleted":
            del parts.adapters.ready["pirate"]
        else:
            parts.adapters.failure = ZeroDivisionError("a defect")
            parts.services.aliases.alias = replace(parts.services.aliases.alias, name="bot")
        served = await answer(parts, replace(REQUEST, adapter="bot")) if way != "defect" else await defective(parts)
        [pair] = await pairs(parts)

    assert served.ending.reason == "stop"
    assert pair.shadow_facts is None
    assert pair.error == {"broken": "AdapterInvalid", "deleted": "AdapterNotFound", "defect": "ZeroDivisionError"}[way]
    assert 'gemlora_shadow_runs_total{outcome="failed"} 1.0' in parts.metrics.exposition().decode()
    assert [line["event"] for line in parts.log_lines if line["level"] == "error"] == (
        ["shadow run failed unexpectedly"] if way == "defect" else []
    )


async def defective(parts: Parts) -> Answer:
    """An answer whose shadow meets a defect when its adapter is looked up."""
    failure, parts.adapters.failure = parts.adapters.failure, None
    generation = await parts.services.generation.start(REQUEST)
    parts.adapters.failure = failure
    return await fold(generation.pieces())


async def test_an_answer_that_does_not_end_has_no_shadow() -> None:
    engine = FakeEngine()
    async with shadowed(engine) as parts:
        engine.fail_next(EngineFailed("broken"))
        with pytest.raises(EngineFailed):
            await answer(parts)
        async with aclosing((await parts.services.generation.start(REQUEST)).pieces()) as pieces:
            await anext(pieces)
        await until(lambda: dropped(parts) == 2)

    assert len(engine.requests) == 2


async def test_requests_for_several_answers_and_those_that_name_no_alias_have_no_shadow() -> None:
    engine = FakeEngine()
    async with shadowed(engine) as parts:
        service = parts.services.generation
        for generation in await service.start_choices(REQUEST, [SamplingChoice(), SamplingChoice()]):
            await fold(generation.pieces())
        await answer(parts, replace(REQUEST, adapter="pirate"))

    assert (len(engine.requests), parts.kept_shadows.pairs, dropped(parts)) == (3, [], 0)


async def test_several_shadows_answer_and_one_that_serves_is_not_its_own_shadow() -> None:
    engine = FakeEngine()
    versions = (Version(BARE_BASE, 1, shadow=1), Version("pirate", 0, shadow=1), Version("odd", 0, shadow=1))
    async with shadowed(engine, *versions) as parts:
        await answer(parts)
        found = await pairs(parts, 2)

    assert {pair.shadow.version for pair in found} == {"pirate", "odd"}
    assert len(engine.requests) == 3


async def test_shadows_do_not_count_as_requests() -> None:
    async with shadowed(FakeEngine()) as parts:
        await answer(parts)
        await pairs(parts)

    lines = parts.metrics.exposition().decode().splitlines()
    assert 'gemlora_generations_total{outcome="stop"} 1.0' in lines
    assert 'gemlora_shadow_generations_total{outcome="stop"} 1.0' in lines
    assert 'gemlora_shadow_runs_total{outcome="run"} 1.0' in lines


async def test_what_cannot_be_saved_is_saved_later() -> None:
    async with shadowed(FakeEngine()) as parts:
        parts.kept_shadows.failure = StorageFailed("The database failed")
        await answer(parts)
        await until(lambda: any(line["event"] == "shadow runs not saved yet" for line in parts.log_lines))
        assert parts.kept_shadows.pairs == []
        parts.kept_shadows.failure = None
        assert len(await pairs(parts)) == 1


async def test_without_anything_that_runs_shadows_all_are_dropped_and_none_is_in_the_way() -> None:
    engine = FakeEngine()
    parts = Parts(engine, aliases=OneAlias())

    assert (await answer(parts)).ending.reason == "stop"
    assert len(engine.requests) == 1
    assert 'gemlora_shadow_runs_total{outcome="dropped"} 1.0' in parts.metrics.exposition().decode()


async def test_no_text_of_a_shadow_is_logged() -> None:
    async with shadowed(FakeEngine()) as parts:
        served = await answer(parts, replace(REQUEST, prompt=Prompt.of_text("rosebud")))
        [pair] = await pairs(parts)

    assert pair.texts is not None
    for text in ("rosebud", served.text, pair.texts["shadow"]["response"]):
        assert text not in parts.log_stream.getvalue()
