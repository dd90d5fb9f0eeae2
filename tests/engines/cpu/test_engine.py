import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.stepping import BROKEN, CONTEXT, NOT_FINITE, RAISING, VOCABULARY, Bench, PagedRunner, alone, request

from gemlora.engines.contract import EngineStats, FinishReason
from gemlora.engines.cpu.adapters import AdapterPool
from gemlora.engines.cpu.blocks import BLOCK_SIZE
from gemlora.engines.cpu.frames import Delivered, Failed, Shutdown, UnloadAdapter


def test_a_request_ends_after_max_tokens() -> None:
    bench = Bench()
    bench.submit(request("a", max_tokens=5))
    bench.run()
    assert len(bench.tokens("a")) == 5
    assert bench.finish_reason("a") is FinishReason.LENGTH


def test_a_stop_token_ends_the_request_and_is_not_delivered() -> None:
    tokens = alone(request("a", max_tokens=20))[0]
    stop = tokens[7]
    bench = Bench()
    bench.submit(request("a", max_tokens=20, stop=(VOCABULARY - 1, stop)))
    bench.run()
    assert bench.tokens("a") == tokens[: tokens.index(stop)]
    assert bench.finish_reason("a") is FinishReason.STOP


def test_a_request_ends_at_the_end_of_the_context_window() -> None:
    bench = Bench(context=100)
    bench.submit(request("a", [5] * 90, max_tokens=1000))
    bench.run()
    assert len(bench.tokens("a")) == 10
    assert bench.finish_reason("a") is FinishReason.LENGTH


def test_tokens_are_delivered_as_they_come() -> None:
    bench = Bench()
    bench.submit(request("a", max_tokens=9))
    for count in range(1, 10):
        bench.step()
        assert len(bench.tokens("a")) == count


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (request("a", []), "at least one token"),
        (request("a", [1] * CONTEXT), f"exceeded this model context window limit \\({CONTEXT}\\)"),
        (request("a", [1, VOCABULARY]), f"tokens from 0 to {VOCABULARY - 1}"),
        (request("a", [-1]), f"tokens from 0 to {VOCABULARY - 1}"),
        (request("a", generated=(VOCABULARY,)), f"tokens from 0 to {VOCABULARY - 1}"),
    ],
)
def test_a_request_that_cannot_be_computed_is_refused(wrong, text: str) -> None:
    bench = Bench()
    bench.submit(wrong)
    bench.run()
    assert bench.failure("a").failure == "request"
    with pytest.raises(Exception, match=text):
        raise bench.failure("a").error
    assert bench.runner.rows == []


def test_a_prompt_that_all_blocks_together_cannot_hold_is_refused() -> None:
    bench = Bench(blocks=2)
    bench.submit(request("a", [1] * 3 * BLOCK_SIZE))
    bench.run()
    assert "context window limit (64)" in bench.failure("a").message


def test_a_second_request_with_the_same_id_is_refused_and_the_first_goes_on() -> None:
    bench = Bench()
    bench.submit(request("a"), request("a", [9]))
    bench.run()
    assert "under way already" in bench.failure("a").message
    assert (bench.tokens("a"),) == tuple(alone(request("a")))


@pytest.mark.parametrize("count", range(9))
def test_a_request_resumed_after_some_tokens_gets_exactly_the_rest(count: int) -> None:
    settings = {"temperature": 1.0, "seed": 7, "frequency_penalty": 0.3, "repetition_penalty": 1.2}
    whole = alone(request("a", max_tokens=8, **settings))[0]
    bench = Bench()
    bench.submit(request("a", max_tokens=8, generated=whole[:count], **settings))
    bench.run()
    assert bench.tokens("a") == whole[count:]
    assert bench.finish_reason("a") is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("poison", "text"), [(NOT_FINITE, "not finite"), (RAISING, "engine failed while computing this request")]
)
def test_one_requests_failure_ends_that_request_only(poison: int, text: str, caplog: pytest.LogCaptureFixture) -> None:
    neighbours = [request(str(i), [i + 1] * 20, max_tokens=12, seed=i, temperature=0.8) for i in range(4)]
    bench = Bench()
    bench.submit(*neighbours[:2])
    bench.step(2)
    with caplog.at_level(logging.CRITICAL):
        bench.submit(request("bad", [3, poison]), *neighbours[2:])
        bench.run()
    assert bench.failure("bad").failure == "engine"
    assert text in bench.failure("bad").message
    assert [bench.tokens(one.id) for one in neighbours] == alone(*neighbours)
    assert bench.cache.available == bench.pool.total


def test_parameters_that_no_array_can_hold_end_that_request_only() -> None:
    bench = Bench()
    bench.submit(request("bad", seed=-1, temperature=1), request("good"))
    bench.run()
    assert bench.failure("bad").failure == "engine"
    assert bench.tokens("good") == alone(request("good"))[0]


STATES = ("unseen", "queued", "loading its adapter", "in prefill", "decoding", "preempted", "ended")


@pytest.mark.parametrize("state", STATES)
def test_cancelling_frees_everything_within_one_step(state: str) -> None:
    bench = Bench(blocks=10, max_sequences=2, step_tokens=16)
    victim = request("victim", [4] * 60, max_tokens=1 if state == "ended" else 100, adapter="slow")
    if state == "queued":
        bench.submit(request("x", max_tokens=100), request("y", max_tokens=100))
        bench.step()
    bench.submit(*([] if state == "unseen" else [victim]))
    if state == "loading its adapter":
        assert bench.loop.step()
        assert bench.executor.tasks
    elif state != "unseen":
        bench.step(12 if state == "decoding" else 30 if state == "ended" else 2)
    if state == "preempted":
        bench.scheduler.preempt(bench.running("victim"))
    others = len(bench.loop._sequences) - (state not in ("unseen", "ended"))
    bench.cancel("victim")
    bench.step()
    assert len(bench.loop._sequences) == others
    assert bench.cache.available == 10 - sum(len(s.blocks) for s in bench.scheduler.running)
    assert not bench.adapters.users
    if not others:
        assert bench.cache.available == 10
        assert not bench.scheduler.running + bench.scheduler.waiting


def test_a_neighbours_cancellation_changes_no_token() -> None:
    one = request("a", range(1, 40), max_tokens=30, temperature=1.0)
    bench = Bench()
    bench.submit(request("b", [9] * 50, max_tokens=100), one)
    bench.step(5)
    bench.cancel("b")
    bench.run()
    assert bench.tokens("a") == alone(one)[0]


def test_requests_with_different_adapters_share_steps_and_get_their_own_tokens() -> None:
    requests = [request(str(i), adapter=[None, "one", "two"][i % 3]) for i in range(9)]
    bench = Bench(max_sequences=9)
    bench.submit(*requests)
    bench.run()
    assert [bench.tokens(one.id) for one in requests] == alone(*requests)
    assert len({bench.tokens(one.id) for one in requests}) == 3
    assert 9 in bench.runner.rows[2:]


def test_a_prompt_that_comes_while_others_are_computed_is_answered_before_them() -> None:
    bench = Bench(commands=1)
    requests = request("a", range(40)), request("b", range(5)), request("c", [3], adapter="x")
    bench.submit(*requests)
    bench.step()
    assert bench.runner.rows == [40, 5]
    assert [event.id for event in bench.mailbox.events if isinstance(event, Delivered)] == ["b", "a"]
    bench.run()
    assert [bench.tokens(id) for id in "abc"] == alone(*requests)


def test_steps_without_prompts_are_not_interrupted() -> None:
    bench = Bench(commands=1)
    bench.submit(request("a"))
    bench.step(2)
    bench.submit(request("nothing", max_tokens=0), request("b"))
    bench.step()
    assert bench.runner.rows == [3, 1, 1]


def test_an_adapter_that_is_read_while_others_are_computed_serves_at_once() -> None:
    bench = Bench()
    bench.submit(request("a", range(40)), request("b", [3], adapter="x"))
    calls = []

    def forward(batch, between):
        calls.append(len(batch.tokens))
        bench.executor.run()
        return PagedRunner.forward(bench.runner, batch, between)

    bench.runner.forward = forward
    assert bench.loop.step()
    assert calls == [40, 1]


@pytest.mark.parametrize("poison", [RAISING, NOT_FINITE])
def test_a_prompt_that_fails_within_a_step_fails_alone(poison: int) -> None:
    bench = Bench(commands=1)
    bench.submit(request("a", range(40)), request("b", [poison]), request("c", [5]))
    bench.run()
    assert bench.failure("b").failure == "engine"
    assert [bench.tokens(id) for id in "ac"] == alone(request("a", range(40)), request("c", [5]))


def test_a_step_that_fails_around_another_one_fails_alone() -> None:
    bench = Bench()
    bench.submit(request("a", [*range(40), RAISING]), request("b", range(30)))
    poisonous = PagedRunner.forward

    def forward(batch, between):
        if between and not bench.tokens("c"):
            bench.submit(request("c", [5]))
            between()
        return poisonous(bench.runner, batch, None)

    bench.runner.forward = forward
    bench.run()
    assert bench.failure("a").failure == "engine"
    assert [bench.tokens(id) for id in "bc"] == alone(request("b", range(30)), request("c", [5]))


def test_other_commands_wait_for_the_end_of_the_step_but_hold_nobody_back() -> None:
    bench = Bench()
    calls = []

    def forward(batch, between):
        calls.append(len(batch.tokens))
        if len(calls) == 1:
            bench.cancel("a")
            bench.mailbox.commands.append(UnloadAdapter("unload", "x"))
            bench.submit(request("b", range(3)), request("c", range(4), adapter="x"))
            bench.mailbox.commands.append(Shutdown())
            bench.submit(request("d", range(5)))
        return PagedRunner.forward(bench.runner, batch, between)

    bench.runner.forward = forward
    bench.submit(request("a", range(40)))
    bench.step()
    assert calls == [40, 3]
    assert bench.running("a").computed == 40
    assert not bench.loop.step()


def test_a_defect_among_newcomers_ends_the_loop_and_not_the_requests_that_are_computed() -> None:
    bench = Bench(commands=1)
    bench.submit(request("a", range(40)), request("b", range(3)))

    def broken():
        raise MemoryError

    bench.scheduler.inserted_chunks = broken
    with pytest.raises(MemoryError):
        bench.loop.step()
    assert len(bench.tokens("a")) == 1
    assert not [event for event in bench.mailbox.events if isinstance(event, Failed)]


def test_a_command_about_an_id_is_followed_only_in_its_order() -> None:
    bench = Bench(commands=1)
    bench.submit(request("a", range(40)))
    bench.cancel("a")
    bench.submit(request("a", range(7)), request("b"))
    bench.step()
    assert bench.runner.rows == [40]
    assert bench.running("a").computed == 40
    bench.run()
    assert bench.runner.rows[1] == 7
    assert not [event for event in bench.mailbox.events if isinstance(event, Failed)]
    (tokens,) = alone(request("a", range(40)))
    assert bench.tokens("a") == (*tokens[:1], *alone(request("a", range(7)))[0])


def test_what_is_computed_within_a_step_does_not_count_as_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, noted = [0.0], []
    monkeypatch.setattr("gemlora.engines.cpu.engine.time.monotonic", lambda: clock[0])
    bench = Bench(commands=1)
    monkeypatch.setattr(bench.scheduler, "note", noted.append)

    def forward(batch, between):
        clock[0] += 1.0 if between else 0.25
        return PagedRunner.forward(bench.runner, batch, between)

    bench.runner.forward = forward
    bench.submit(request("a", range(40)), request("b", [5]))
    bench.step()
    assert noted == [1.0]
    assert bench.stats().step_seconds == 1.25


def test_others_run_while_an_adapter_is_read() -> None:
    bench = Bench()
    bench.submit(request("slow", adapter="one"), request("fast"))
    for _ in range(3):
        assert bench.loop.step()
    assert len(bench.tokens("fast")) == 3
    assert bench.tokens("slow") == ()
    bench.run()
    assert bench.tokens("slow") == alone(request("slow", adapter="one"))[0]


def test_a_step_waits_for_a_packed_adapter_that_is_read_at_once() -> None:
    bench = Bench()
    with ThreadPoolExecutor(1) as reader:
        bench.loader.packed.add("one")
        bench.adapters = bench.loop._adapters = AdapterPool(bench.loader, 1000, reader, reader, lambda: None)
        bench.submit(request("a", adapter="one"))
        assert bench.loop.step()
        assert len(bench.tokens("a")) == 1
        bench.run()
    assert bench.tokens("a") == alone(request("a", adapter="one"))[0]


def test_a_step_waits_only_a_moment_for_an_adapter() -> None:
    bench = Bench()
    bench.submit(request("slow", adapter="one"), request("fast"))
    assert bench.loop.step()  # nobody reads
    assert len(bench.tokens("fast")) == 1
    assert bench.tokens("slow") == ()
    bench.run()
    assert bench.tokens("slow") == alone(request("slow", adapter="one"))[0]


def test_a_resident_adapter_does_not_wait_for_one_that_is_read() -> None:
    bench = Bench()
    bench.submit(request("before", adapter="one"))
    bench.run()
    bench.submit(request("slow", adapter="two"), request("fast", adapter="one"))
    assert bench.loop.step()
    assert len(bench.tokens("fast")) == 1
    bench.run()
    assert bench.tokens("slow") == alone(request("slow", adapter="two"))[0]


def test_an_engine_that_only_waits_for_an_adapter_sleeps() -> None:
    bench = Bench()
    bench.submit(request("slow", adapter="one"))
    assert bench.loop.step()
    assert bench.loop.step()
    assert bench.mailbox.waited
    bench.run()
    assert bench.finish_reason("slow")


def test_a_broken_adapter_ends_its_own_requests_only() -> None:
    bench = Bench()
    bench.submit(request("a", adapter=BROKEN), request("b", adapter="one"), request("c", adapter=BROKEN))
    bench.run()
    for id in "ac":
        assert bench.failure(id).failure == "adapter"
        assert bench.failure(id).message == "this adapter is broken"
    assert bench.finish_reason("b")


def test_a_request_that_waits_for_room_for_its_adapter_is_not_starved() -> None:
    bench = Bench(adapters=1)
    bench.submit(request("first", adapter="one", max_tokens=20))
    bench.step(2)
    bench.submit(request("second", adapter="two"))
    for i in range(10):
        bench.submit(request(f"flood {i}", adapter="one", max_tokens=20))
        bench.step(3)
    assert bench.finish_reason("second")
    bench.run()
    assert not bench.adapters.users


def test_what_waits_for_its_own_adapter_waits_for_nothing_else() -> None:
    bench = Bench()
    bench.submit(request("loading", adapter="slow"), request("running", max_tokens=100))
    assert bench.loop.step()
    assert bench.executor.tasks
    assert (bench.stats().waiting, bench.stats().queued) == (1, 0)


def test_an_adapter_larger_than_all_memory_for_adapters_is_refused() -> None:
    bench = Bench(adapters=0)
    bench.submit(request("a", adapter="one"))
    bench.run()
    assert bench.failure("a").failure == "adapter"


def test_the_counters_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemlora.engines.cpu.engine.REPORT_SECONDS", 0)
    bench = Bench(blocks=20)
    bench.submit(request("a", [1] * 40, max_tokens=4, adapter="one"), request("b", [1] * 3, max_tokens=2))
    bench.step()
    bench.step()
    stats: EngineStats = bench.stats()
    assert (stats.running, stats.waiting, stats.blocks, stats.free_blocks) == (1, 0, 20, 18)
    assert (stats.adapters, stats.adapter_bytes) == (1, 100)
    bench.run()
    stats = bench.stats()
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, 20)
    assert (stats.prompt_tokens, stats.output_tokens) == (39 + 2, 6)
    assert stats.steps == len(bench.runner.rows)
    assert stats.step_seconds > 0


def test_counters_are_told_ten_times_a_second_and_when_nothing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("gemlora.engines.cpu.engine.time.monotonic", lambda: clock[0])
    bench = Bench()
    bench.submit(request("a", max_tokens=30))
    told = []
    for _ in range(30):
        bench.step()
        clock[0] += 1 / 64
        told.append(bench.stats().steps)
    assert told == [1] * 7 + [8] * 7 + [15] * 7 + [22] * 7 + [29, 30]
    bench.submit(request("b", adapter="one"))
    bench.step()
    assert bench.stats().waiting == 1


def test_nothing_is_reported_when_nothing_happens() -> None:
    bench = Bench()
    bench.step()
    before = len(bench.mailbox.events)
    bench.step(3)
    assert len(bench.mailbox.events) == before


def test_the_loop_ends_when_told_to() -> None:
    bench = Bench()
    bench.submit(request("a"))
    bench.step()
    assert bench.shut_down()
