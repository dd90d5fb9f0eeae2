from collections import Counter
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.stepping import Bench, alone, request

from gemlora.engines.contract import FinishReason
from gemlora.engines.cpu.blocks import BLOCK_SIZE, BlockPool, blocks_for
from gemlora.engines.cpu.pace import Pace
from gemlora.engines.cpu.prefix_cache import PrefixCache
from gemlora.engines.cpu.scheduler import Scheduler
from gemlora.engines.cpu.sequence import Sequence


def next_step(scheduler: Scheduler) -> dict[str, int]:
    """How many tokens of each prompt the next step computes."""
    chunks = scheduler.next_chunks()
    for chunk in chunks:
        chunk.sequence.computed += chunk.length
    return {chunk.sequence.request.id: chunk.length for chunk in chunks}


def test_those_that_decode_come_first_and_a_prompt_gets_the_rest() -> None:
    bench = Bench(step_tokens=16)
    bench.submit(request("a"), request("b"))
    bench.step()
    bench.submit(request("long", range(1, 41)))
    bench.step(3)
    assert bench.runner.rows == [6, 16, 16, 2 + 12]
    assert bench.running("long").remaining == 1


def test_a_step_computes_no_more_tokens_than_it_may() -> None:
    bench = Bench(step_tokens=20)
    bench.submit(*(request(str(i), range(1, 36)) for i in range(6)))
    bench.run()
    assert max(bench.runner.rows) == 20


def test_a_short_prompt_overtakes_long_ones() -> None:
    bench = Bench(step_tokens=64, blocks=200, max_sequences=9)
    bench.submit(*(request(str(i), [i] * 400) for i in range(8)))
    bench.step(3)
    bench.submit(request("short", range(40)))
    bench.step()
    assert len(bench.tokens("short")) == 1


def test_long_prompts_wait_for_short_ones_except_the_oldest() -> None:
    scheduler = Bench(blocks=200, step_tokens=512, step_seconds=0.04).scheduler
    lengths = {"oldest": 400, "next": 400, "short": 10, "too": 11}
    for arrival, (name, length) in enumerate(lengths.items()):
        scheduler.add(Sequence.start(request(name, range(length)), arrival))
    assert next_step(scheduler) == {"oldest": 4, "short": 10, "too": 11}  # of 36 that fit; half of them are there


def test_beside_short_prompts_others_fill_half_a_step() -> None:
    scheduler = Bench(blocks=200, step_tokens=512, step_seconds=0.04).scheduler
    for arrival, length in enumerate([400, 300, 6]):
        scheduler.add(Sequence.start(request(str(arrival), range(length)), arrival))
    assert next_step(scheduler) == {"0": 4, "1": 8, "2": 6}


def test_beside_the_rest_of_a_longer_prompt_others_fill_the_step() -> None:
    scheduler = Bench(blocks=200, step_tokens=512, step_seconds=0.04).scheduler
    for arrival, length in enumerate([50, 200]):
        scheduler.add(Sequence.start(request(str(arrival), range(length)), arrival))
    assert next_step(scheduler) == {"0": 35}
    assert next_step(scheduler) == {"0": 15, "1": 20}


def test_a_prompt_is_as_short_as_what_the_prefix_cache_does_not_have_of_it() -> None:
    scheduler = Bench(blocks=200, step_tokens=512, step_seconds=0.04).scheduler
    conversation = range(9 * BLOCK_SIZE + 10)
    scheduler.add(before := Sequence.start(request("before", conversation), 0))
    while before.remaining:
        next_step(scheduler)
    scheduler.remove(before)
    for arrival, prompt in enumerate([[0] * 300, conversation, [1] * 200], 1):
        scheduler.add(Sequence.start(request(str(arrival), prompt), arrival))
    assert next_step(scheduler) == {"1": 4, "2": 10, "3": 3}


def test_inserted_chunks_are_of_newcomers_that_are_short_and_find_room() -> None:
    scheduler = Bench(blocks=5, step_seconds=0.04).scheduler
    sequences = [
        Sequence.start(request(name, range(length)), arrival)
        for arrival, (name, length) in enumerate([("first", 30), ("long", 40), ("short", 4), ("no room", 3)])
    ]
    scheduler.add(sequences[0])
    assert [chunk.sequence for chunk in scheduler.next_chunks()] == sequences[:1]
    assert scheduler.inserted_chunks() == []
    scheduler.remove(sequences[0])
    for sequence in sequences[1:]:
        scheduler.add(sequence)
    (inserted,) = scheduler.inserted_chunks()
    assert (inserted.sequence, inserted.length) == (sequences[2], 4)
    assert scheduler.inserted_chunks() == []
    assert scheduler.preemptions == 0
    assert scheduler.waiting == (sequences[3],)


def test_the_oldest_prompt_moves_however_many_shorter_ones_come() -> None:
    bench = Bench(step_tokens=64, blocks=400, max_sequences=100)
    bench.submit(request("long", [1] * 400, 1), request("next", [2] * 400, 1))
    for number in range(2 * 400 // (64 // 8)):
        for length in (40, 50):
            bench.submit(request(f"{length} {number}", [number // 40, number % 40, *range(length - 10)], 1))
        bench.step()
        assert min(bench.runner.rows) == 64
    assert len(bench.tokens("long")) == len(bench.tokens("next")) == 1


def test_no_more_sequences_run_than_may() -> None:
    bench = Bench(max_sequences=2)
    bench.submit(*(request(str(i)) for i in range(5)))
    bench.step()
    assert [sequence.request.id for sequence in bench.scheduler.running] == ["0", "1"]
    assert len(bench.scheduler.waiting) == bench.stats().queued == 3


def test_every_running_sequence_moves_in_every_step_even_if_there_are_more_than_tokens() -> None:
    bench = Bench(max_sequences=100, step_tokens=16)
    bench.submit(*(request(str(i), [1]) for i in range(40)))
    bench.step()
    assert len(bench.scheduler.running) == 16
    before = {sequence.request.id: sequence.generated for sequence in bench.scheduler.running}
    bench.step()
    assert all(bench.running(id).generated == count + 1 for id, count in before.items())


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    bench = Bench(blocks=8)
    bench.submit(*(request(f"small {i}", range(1, 41), max_tokens=20) for i in range(2)))
    bench.step()
    large, later = request("large", [7] * 7 * BLOCK_SIZE), request("later", range(1, 41))
    bench.submit(large, later)
    bench.step()
    assert [sequence.request.id for sequence in bench.scheduler.waiting] == ["large", "later"]
    while any(s.request.id == "large" for s in bench.scheduler.waiting):
        assert not any(s.request.id == "later" for s in bench.scheduler.running)
        bench.step()


def test_the_newest_gives_way_when_blocks_run_out_and_loses_no_token() -> None:
    requests = [request(str(i), [i + 1] * 30, max_tokens=60) for i in range(3)]
    bench = Bench(blocks=7)
    bench.submit(*requests)
    while not bench.scheduler.preemptions:
        bench.step()
    assert [sequence.request.id for sequence in bench.scheduler.waiting] == ["2"]
    assert bench.running("2").blocks == []
    bench.run()
    assert [bench.tokens(one.id) for one in requests] == alone(*requests)
    assert bench.cache.available == 7


def test_a_sequence_that_needs_all_blocks_ends() -> None:
    bench = Bench(blocks=4)
    bench.submit(request("a", [1] * 64, max_tokens=1000), request("b", [2] * 64, max_tokens=1000))
    bench.run()
    for id in "ab":
        assert len(bench.tokens(id)) == 4 * BLOCK_SIZE - 64
        assert bench.finish_reason(id) is FinishReason.LENGTH


def test_guesses_take_no_block_that_another_sequence_may_soon_need() -> None:
    scheduler = Scheduler(PrefixCache(BlockPool(5), "", most_idle=0), max_sequences=8, pace=Pace(64, inf))
    pair = [Sequence.start(request(str(number), [1] * (BLOCK_SIZE - 1)), number) for number in range(2)]
    for sequence in pair:
        scheduler.add(sequence)
    for chunk in scheduler.next_chunks():
        chunk.sequence.computed += chunk.length
        chunk.sequence.append(1)
    assert [len(chunk.draft) for chunk in scheduler.next_chunks(dict.fromkeys(pair, [2] * 8))] == [8, 0]
    assert scheduler.free_blocks == 2


class Company(RuleBasedStateMachine):
    """Requests come, go and are computed; afterwards everything is as it was."""

    @initialize(
        blocks=st.integers(2, 12), most=st.integers(1, 8), step_tokens=st.integers(1, 40), adapters=st.integers(1, 3),
        idle=st.integers(0, 12), share=st.sampled_from([0.1, 0.5, 1.0]), commands=st.sampled_from([None, 1, 3]),
    )  # fmt: skip
    def start(
        self, blocks: int, most: int, step_tokens: int, adapters: int, idle: int, share: float, commands: int | None
    ) -> None:
        self.bench = Bench(blocks, most, step_tokens, adapters, most_idle=idle, largest_share=share, commands=commands)
        self.requests = {}
        self.cancelled = set()

    @rule(
        first=st.sampled_from([0, 0, 0, 5, 40]), length=st.integers(1, 120), max_tokens=st.integers(1, 50),
        temperature=st.sampled_from([0.0, 1.0]), penalty=st.sampled_from([0.0, 0.5]),
        adapter=st.sampled_from([None, None, "one", "two", "three", "four"]), scope=st.sampled_from([b"a", b"b"]),
    )  # fmt: skip
    def submit(
        self, first: int, length: int, max_tokens: int, temperature: float, penalty: float, adapter: str | None,
        scope: bytes,
    ) -> None:  # fmt: skip
        id = str(len(self.requests))
        self.requests[id] = request(
            id, [(first + i) % 45 for i in range(length)], max_tokens,
            adapter=adapter, temperature=temperature, frequency_penalty=penalty, seed=first, scope=scope,
        )  # fmt: skip
        self.bench.submit(self.requests[id])

    @rule(choice=st.integers(0))
    def cancel(self, choice: int) -> None:
        if self.requests:
            id = str(choice % len(self.requests))
            self.bench.cancel(id)
            self.cancelled.add(id)

    @rule(times=st.integers(1, 12))
    def step(self, times: int) -> None:
        self.bench.step(times)

    @invariant()
    def every_block_is_free_or_cached_or_held_and_counts_its_users(self) -> None:
        pool, cache = self.bench.pool, self.bench.cache
        held = Counter(block for sequence in self.bench.scheduler.running for block in sequence.blocks)
        cached = {one.block for one in cache._cached.values()}
        users = [held[block] + (block in cached) for block in range(pool.total)]
        assert users == [pool.users(block) for block in range(pool.total)]
        assert pool.free == users.count(0)
        assert cache.idle == len(cached - held.keys()) == sum(map(len, cache._idle.values())) <= cache._most_idle
        assert cached == cache._cached_at.keys()
        assert not any(sequence.blocks or sequence.computed for sequence in self.bench.scheduler.waiting)

    @invariant()
    def running_sequences_have_blocks_for_what_is_computed(self) -> None:
        assert all(len(s.blocks) >= blocks_for(s.computed) for s in self.bench.scheduler.running)

    @invariant()
    def limits_are_kept(self) -> None:
        assert max(self.bench.runner.rows, default=0) <= self.bench.scheduler._pace.step_tokens
        scheduler = self.bench.scheduler
        assert len(scheduler.running) <= min(scheduler._most_running, scheduler._pace.step_tokens)

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.bench.run()
        assert self.bench.cache.available == self.bench.pool.total
        assert not self.bench.loop._sequences
        assert not self.bench.adapters.users
        for id, one in self.requests.items():
            if len(one.prompt) >= self.bench.scheduler.capacity:
                assert self.bench.failure(id).failure == "request"
            elif id not in self.cancelled:
                expected = alone(one)[0][: self.bench.scheduler.capacity - len(one.prompt)]
                assert self.bench.tokens(id) == expected


TestCompany = Company.TestCase
TestCompany.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
