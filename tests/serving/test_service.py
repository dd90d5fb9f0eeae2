"""From a valid request to text, over a fake engine."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from tests.api.parts import ADAPTER_ID, ALICE, BOB, MODEL, Parts

from gemlora.engines.contract import FinishReason, GenerateRequest, Output
from gemlora.engines.fake import FakeEngine
from gemlora.errors import AdapterNotFound, EngineFailed, ModelNotFound, OutOfCapacity, PromptTooLong
from gemlora.registry.models import DefaultAdapter
from gemlora.serving.generation import Ending, Generation, Piece, fold
from gemlora.serving.prompt import Message, Prompt, Room, ToolCall
from gemlora.serving.service import RunRequest, SamplingChoice, TextGeneration

REQUEST = RunRequest("id", ALICE, MODEL, Prompt.of_text("Hello"), sampling=SamplingChoice(seed=3))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def service(engine: FakeEngine) -> TextGeneration:
    return Parts(engine).services.generation


async def engine_request(engine: FakeEngine, service: TextGeneration, request: RunRequest) -> GenerateRequest:
    await fold((await service.start(request)).pieces())
    return engine.requests[-1]


async def test_an_answer_is_pieces_and_then_an_ending(service: TextGeneration) -> None:
    generation = await service.start(replace(REQUEST, max_tokens=5))

    pieces = [piece async for piece in generation.pieces()]

    assert all(isinstance(piece, Piece) and piece.text for piece in pieces[:-1])
    ending = pieces[-1]
    assert isinstance(ending, Ending)
    assert ending.finish_reason is FinishReason.LENGTH
    assert (ending.usage.prompt_tokens, ending.usage.completion_tokens) == (21, 5)
    assert ending.usage.total_tokens == 26


async def test_folding_joins_the_pieces(service: TextGeneration) -> None:
    pieces = [piece async for piece in (await service.start(REQUEST)).pieces()]

    answer = await fold((await service.start(REQUEST)).pieces())

    assert answer.text == "".join(piece.text for piece in pieces[:-1] if isinstance(piece, Piece))
    assert answer.calls == ()
    assert answer.ending == pieces[-1]


async def test_nothing_runs_before_the_pieces_are_asked_for(service: TextGeneration, engine: FakeEngine) -> None:
    await service.start(REQUEST)

    assert engine.requests == []


async def test_a_seed_is_drawn_when_none_is_given(service: TextGeneration, engine: FakeEngine) -> None:
    unseeded = replace(REQUEST, sampling=SamplingChoice())

    seeds = {(await engine_request(engine, service, unseeded)).sampling.seed for _ in range(5)}

    assert len(seeds) == 5
    assert all(1 <= seed <= 9_999_999_999 for seed in seeds)


@pytest.mark.parametrize(("length", "room"), [(8191 - 1, 1), (8191 - 7, 7)])
async def test_max_tokens_is_cut_to_the_room_that_the_prompt_leaves(
    service: TextGeneration, engine: FakeEngine, length: int, room: int
) -> None:
    request = replace(REQUEST, prompt=Prompt.of_text("x" * length, raw=True), max_tokens=8192)

    assert (await engine_request(engine, service, request)).max_tokens == room


async def test_a_prompt_without_any_room_names_the_sum_and_the_window(service: TextGeneration) -> None:
    request = replace(REQUEST, prompt=Prompt.of_text("x" * 8191, raw=True), max_tokens=618)

    with pytest.raises(PromptTooLong, match=r"\(8810\) .* \(8192\)"):
        await service.start(request)


async def test_the_cache_key_tells_accounts_apart_and_keeps_their_ids_to_itself(
    service: TextGeneration, engine: FakeEngine
) -> None:
    alice = await engine_request(engine, service, REQUEST)
    bob = await engine_request(engine, service, replace(REQUEST, account_id=BOB))
    again = await engine_request(engine, service, REQUEST)

    assert alice.cache_scope == again.cache_scope != bob.cache_scope
    assert alice.share_key == again.share_key != bob.share_key
    assert alice.share_key != alice.cache_scope
    assert ALICE.encode() not in alice.cache_scope + alice.share_key


async def test_an_answer_stops_at_the_tokenizer_s_stop_tokens(service: TextGeneration, engine: FakeEngine) -> None:
    assert (await engine_request(engine, service, REQUEST)).stop_tokens == (257, 261)


@pytest.mark.parametrize(
    ("changes", "served"),
    [
        ({}, "pirate"),
        ({"adapter": ""}, None),
        ({"adapter": "cf-public-base"}, None),
        ({"prompt": Prompt.of_text("Hello", raw=True)}, None),
        ({"prompt": Prompt.of_text("Hello", raw=True), "adapter": "pirate"}, "pirate"),
    ],
)
async def test_the_default_adapter_serves_what_names_none_and_is_not_raw(
    engine: FakeEngine, changes: dict[str, Any], served: str | None
) -> None:
    service = Parts(engine, default_adapter=DefaultAdapter("pirate")).services.generation

    generation = await service.start(replace(REQUEST, **changes))

    adapter = generation.served.adapter
    assert (adapter and adapter.name) == served


async def test_only_a_default_that_somebody_asked_for_must_be_there(engine: FakeEngine) -> None:
    optional = Parts(engine, default_adapter=DefaultAdapter("gone", optional=True)).services.generation
    asked_for = Parts(engine, default_adapter=DefaultAdapter("gone")).services.generation

    assert (await optional.start(REQUEST)).served.adapter is None
    with pytest.raises(AdapterNotFound):
        await asked_for.start(REQUEST)
    with pytest.raises(AdapterNotFound):
        await optional.start(replace(REQUEST, adapter="gone"))


async def test_unknown_models_and_adapters_are_refused(service: TextGeneration) -> None:
    with pytest.raises(ModelNotFound, match="No such model @cf/x or task"):
        await service.start(replace(REQUEST, model="@cf/x"))
    with pytest.raises(AdapterNotFound, match="Adapter nothing not found"):
        await service.start(replace(REQUEST, adapter="nothing"))


async def test_closing_the_pieces_frees_the_sequence(service: TextGeneration, engine: FakeEngine) -> None:
    async with aclosing((await service.start(REQUEST)).pieces()) as pieces:
        await anext(pieces)
        assert engine.live == 1

    assert engine.live == 0


async def test_an_engine_that_ends_without_a_reason_has_failed(engine: FakeEngine) -> None:
    class Silent(FakeEngine):
        async def generate(self, request: GenerateRequest) -> Any:
            for output in ():
                yield output

    generation = await Parts(Silent()).services.generation.start(REQUEST)

    with pytest.raises(EngineFailed):
        await fold(generation.pieces())


async def test_long_prompts_are_encoded_beside_the_event_loop(service: TextGeneration) -> None:
    used: list[bool] = []

    class SlowCodec:
        stop_tokens = (257,)

        def encode(self, prompt: Prompt, room: Room) -> Sequence[int]:
            used.append(threading.current_thread() is threading.main_thread())
            time.sleep(0.05)
            return (1,)

        def decoder(self) -> Any:
            return None

    service._codec = SlowCodec()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    for prompt in (
        Prompt.of_text("x" * 5000),
        Prompt((Message("user"), Message("assistant")) * 5000),
        Prompt((Message("assistant", "", (ToolCall("f", "x" * 5000),)),)),
        Prompt((Message("tool", "", name="x" * 5000),)),
    ):
        await service.start(replace(REQUEST, prompt=prompt))
    ticking.cancel()
    await service.start(REQUEST)

    assert used == [False, False, False, False, True]
    assert ticks > 3


async def test_the_outcome_is_counted_also_when_nobody_waits_for_it() -> None:
    parts = Parts(FakeEngine())
    service = parts.services.generation

    async def generation() -> Generation:
        return await service.start(REQUEST)

    await fold((await generation()).pieces())
    async with aclosing((await generation()).pieces()) as pieces:
        await anext(pieces)
        assert "gemlora_requests_in_flight 1.0" in parts.metrics.exposition().decode()
    parts.engine.fail_next(EngineFailed("x"))
    with pytest.raises(EngineFailed):
        await fold((await generation()).pieces())

    exposition = parts.metrics.exposition().decode()
    assert 'gemlora_generations_total{outcome="stop"} 1.0' in exposition
    assert 'gemlora_generations_total{outcome="aborted"} 1.0' in exposition
    assert 'gemlora_generations_total{outcome="failed"} 1.0' in exposition
    assert "gemlora_requests_in_flight 0.0" in exposition


async def test_an_answer_counts_for_its_adapter_once_it_has_begun() -> None:
    parts = Parts(FakeEngine(), default_adapter=DefaultAdapter("pirate"))
    service = parts.services.generation

    for adapter in ("pirate", None, "", ADAPTER_ID):
        await fold((await service.start(replace(REQUEST, adapter=adapter))).pieces())
    async with aclosing((await service.start(REQUEST)).pieces()) as pieces:
        await anext(pieces)
    parts.engine.fail_next(EngineFailed("x"))
    with pytest.raises(EngineFailed):
        await fold((await service.start(REQUEST)).pieces())

    assert parts.uses.of(ALICE, ADAPTER_ID).answers == 4
    assert parts.uses.of(BOB, ADAPTER_ID).answers == 0


@pytest.mark.parametrize("cuts", [[1] * 24, [24], [5, 7, 12], [23, 1]])
async def test_what_an_answer_with_a_stop_string_costs_does_not_depend_on_how_its_tokens_come(
    engine: FakeEngine, service: TextGeneration, monkeypatch: pytest.MonkeyPatch, cuts: list[int]
) -> None:
    whole = (await fold((await service.start(REQUEST)).pieces())).text
    generate = FakeEngine.generate

    async def grouped(self: FakeEngine, request: GenerateRequest) -> Any:
        tokens = [token async for output in generate(self, request) for token in output.tokens]
        for number, count in enumerate(cuts, 1):
            yield Output(tuple(tokens[:count]), FinishReason.STOP if number == len(cuts) else None)
            del tokens[:count]

    monkeypatch.setattr(FakeEngine, "generate", grouped)
    for stop, reason in ((whole[9:12], FinishReason.STOP), (whole[20:24], FinishReason.STOP)):
        answer = await fold((await service.start(replace(REQUEST, stop=(stop,)))).pieces())
        assert answer.text == whole.partition(stop)[0]
        assert answer.ending.finish_reason is reason
        assert answer.ending.usage.completion_tokens == len(answer.text) + len(stop)
    answer = await fold((await service.start(replace(REQUEST, stop=("absent",)))).pieces())
    assert (answer.text, answer.ending.usage.completion_tokens) == (whole, 24)


async def test_a_request_that_will_not_wait_is_refused_when_the_room_is_gone_by_then() -> None:
    engine = FakeEngine(capacity=1)
    service = Parts(engine).services.generation
    first, second = [await service.start(replace(REQUEST, reject_if_busy=True)) for _ in range(2)]
    async with aclosing(first.pieces()) as pieces:
        await anext(pieces)
        with pytest.raises(OutOfCapacity, match="busy"):
            await anext(second.pieces())
