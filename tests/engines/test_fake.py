"""The fake engine keeps the contract's promises."""

import asyncio
import json
from contextlib import aclosing

import pytest
from llguidance import LLMatcher
from msgspec.structs import replace

from gemlora.engines.contract import AdapterRef, Constraint, Engine, FinishReason, GenerateRequest, Output, Sampling
from gemlora.engines.fake import FakeEngine
from gemlora.errors import (
    AdapterInvalid,
    ConstraintInvalid,
    ConstraintUnmet,
    EngineFailed,
    OutOfCapacity,
    RequestAborted,
)

REQUEST = GenerateRequest("id", (1, 2, 3), 10, Sampling(seed=5), stop_tokens=(257,))
ADAPTER = AdapterRef("ab" * 32, "manifest", "weights", "cd" * 32)


async def outputs(engine: FakeEngine, request: GenerateRequest) -> list[Output]:
    return [output async for output in engine.generate(request)]


async def tokens(engine: FakeEngine, request: GenerateRequest) -> tuple[int, ...]:
    return tuple(token for output in await outputs(engine, request) for token in output.tokens)


def test_it_is_an_engine() -> None:
    engine: Engine = FakeEngine()

    assert engine.facts.context_window == 8192


async def test_tokens_are_a_function_of_the_request() -> None:
    first = await tokens(FakeEngine(), REQUEST)

    assert first == await tokens(FakeEngine(token_seconds=0.0001), replace(REQUEST, id="other"))
    others = [
        replace(REQUEST, prompt=(1, 2, 4)),
        replace(REQUEST, sampling=Sampling(seed=6)),
        replace(REQUEST, sampling=Sampling(seed=5, top_k=3)),
        replace(REQUEST, adapter=ADAPTER),
    ]
    assert len({first, *[await tokens(FakeEngine(), other) for other in others]}) == 5


async def test_a_greedy_request_ignores_the_seed() -> None:
    greedy = [replace(REQUEST, sampling=Sampling(seed=seed, temperature=1e-8)) for seed in (1, 2)]

    assert await tokens(FakeEngine(), greedy[0]) == await tokens(FakeEngine(), greedy[1])


async def test_a_longer_answer_begins_with_the_shorter_one_and_a_continued_one_goes_on() -> None:
    short = await tokens(FakeEngine(), REQUEST)
    long = await tokens(FakeEngine(), replace(REQUEST, max_tokens=20))

    assert long[:10] == short
    assert await tokens(FakeEngine(), replace(REQUEST, max_tokens=20, generated=long[:7])) == long[7:]


async def test_it_ends_by_length_or_by_a_stop_token_that_is_not_delivered() -> None:
    engine = FakeEngine(length=4)

    assert (await outputs(engine, replace(REQUEST, max_tokens=4)))[-1].finish_reason is FinishReason.LENGTH
    assert (await outputs(engine, REQUEST))[-1] == Output((), FinishReason.STOP)
    assert len(await tokens(engine, REQUEST)) == 4
    assert len(await tokens(engine, replace(REQUEST, stop_tokens=()))) == 10


async def test_closing_the_generator_frees_the_sequence() -> None:
    engine = FakeEngine(token_seconds=0.001)

    async with aclosing(engine.generate(REQUEST)) as stream:
        await anext(stream)
        assert engine.live == engine.stats().running == 1

    assert engine.live == 0


async def test_it_fails_as_told_and_only_once() -> None:
    engine = FakeEngine()
    engine.fail_next(EngineFailed("broken"), after_tokens=3)

    stream = engine.generate(REQUEST)
    for _ in range(3):
        await anext(stream)
    with pytest.raises(EngineFailed, match="broken"):
        await anext(stream)

    assert engine.live == 0
    assert len(await tokens(engine, REQUEST)) == 10


async def test_a_broken_adapter_fails_its_requests() -> None:
    engine = FakeEngine()
    engine.break_adapter(ADAPTER.digest)

    with pytest.raises(AdapterInvalid):
        await outputs(engine, replace(REQUEST, adapter=ADAPTER))


async def test_over_its_capacity_it_refuses() -> None:
    engine = FakeEngine(capacity=1, token_seconds=0.001)

    async with aclosing(engine.generate(REQUEST)) as stream:
        await anext(stream)
        with pytest.raises(OutOfCapacity):
            await outputs(engine, REQUEST)


@pytest.mark.parametrize("prefill", [0.0, 60.0])
async def test_closing_the_engine_aborts_what_runs_and_what_comes(prefill: float) -> None:
    engine = FakeEngine(prefill_seconds=prefill, token_seconds=60)
    running = asyncio.create_task(outputs(engine, REQUEST))
    await asyncio.sleep(0.01)

    await engine.close()

    with pytest.raises(RequestAborted):
        await running
    with pytest.raises(RequestAborted):
        await outputs(engine, REQUEST)


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
CONSTRAINED = replace(
    REQUEST, max_tokens=60, constraint=Constraint(LLMatcher.grammar_from_json_schema({**SCHEMA, "required": ["name"]}))
)


@pytest.mark.parametrize("most", [11, 12, 20, 30, 60])
async def test_a_constrained_answer_is_complete_at_every_bound(most: int) -> None:
    for seed in range(5):
        request = replace(CONSTRAINED, max_tokens=most, sampling=Sampling(seed=seed))
        assert "name" in json.loads(bytes(await tokens(FakeEngine(), request)))


async def test_a_constrained_answer_goes_on_where_it_was_cut() -> None:
    long = await tokens(FakeEngine(), CONSTRAINED)
    assert long == await tokens(FakeEngine(), CONSTRAINED)
    for cut in range(len(long)):
        rest = await tokens(FakeEngine(), replace(CONSTRAINED, generated=long[:cut]))
        assert long[:cut] + rest == long


async def test_constraints_that_cannot_be_met_end_their_request() -> None:
    engine = FakeEngine()
    with pytest.raises(ConstraintUnmet):
        await outputs(engine, replace(CONSTRAINED, max_tokens=10))
    with pytest.raises(ConstraintInvalid):
        await outputs(engine, replace(CONSTRAINED, constraint=Constraint("start: nothing")))
    assert engine.live == 0
