"""Which blocks are shared, with whom, how long they stay and who loses them first."""

import numpy as np
import pytest
from tests.stepping import BASE, Bench, alone, request

from gemlora.engines.contract import GenerateRequest
from gemlora.engines.cpu import prefix_cache
from gemlora.engines.cpu.blocks import BLOCK_SIZE
from gemlora.engines.cpu.frames import ProbeAdapter
from gemlora.engines.cpu.prefix_cache import PrefixCache

LONG = [*range(1, 41)] * 3
"""120 tokens: three full blocks."""


def computed(bench: Bench) -> int:
    """Tokens computed so far."""
    return sum(bench.runner.rows)


def cost(bench: Bench, one: GenerateRequest) -> int:
    """Tokens that the engine computes for a request."""
    before = computed(bench)
    bench.submit(one)
    bench.run()
    return computed(bench) - before


def test_a_repeated_prompt_costs_what_its_last_started_block_costs() -> None:
    bench = Bench()
    assert cost(bench, request("cold", LONG, 1)) == 120
    assert cost(bench, request("warm", LONG, 1)) == 120 - 3 * BLOCK_SIZE
    assert bench.tokens("cold") == bench.tokens("warm")
    assert bench.stats().cached_tokens == 3 * BLOCK_SIZE


def test_the_next_turn_of_a_conversation_costs_its_new_tokens_only() -> None:
    bench = Bench()
    bench.submit(request("first", LONG, 50))
    bench.run()
    answered = [*LONG, *bench.tokens("first")]
    turn = request("second", [*answered, *range(30)], 20)
    assert cost(bench, turn) <= BLOCK_SIZE + 30 + 20
    assert bench.tokens("second") == alone(turn)[0]


@pytest.mark.parametrize("length", [32, 33, 64, 65, 96])
def test_the_last_token_of_a_prompt_is_always_computed(length: int) -> None:
    bench = Bench()
    cost(bench, request("cold", LONG[:length], 1))
    assert cost(bench, request("warm", LONG[:length], 1)) == (length - 1) % BLOCK_SIZE + 1
    assert bench.tokens("warm") == bench.tokens("cold")


def test_requests_that_run_share_blocks_and_never_write_into_them() -> None:
    bench = Bench()
    bench.submit(request("a", LONG, 40))
    bench.step(3)
    later = [request(str(i), [*LONG, i], 40) for i in range(4)]
    bench.submit(*later)
    bench.step(2)
    assert all(bench.running(one.id).blocks[:3] == bench.running("a").blocks[:3] for one in later)
    assert len({bench.running(id).blocks[3] for id in "a0123"}) == 5
    bench.run()
    assert [bench.tokens(one.id) for one in later] == alone(*later)


def test_a_request_needs_room_only_for_what_nobody_else_holds() -> None:
    bench = Bench(blocks=6)
    bench.submit(request("a", LONG, 8))
    bench.step(2)
    bench.submit(request("b", [*LONG, 1], 2))
    bench.step()
    assert len(bench.scheduler.running) == 2
    assert len({*bench.running("a").blocks, *bench.running("b").blocks}) == 5


def test_prompts_that_come_together_and_begin_alike_are_computed_once() -> None:
    bench = Bench(step_tokens=BLOCK_SIZE)
    requests = [request(str(i), [*LONG, *LONG, i], 1) for i in range(5)]
    bench.submit(*requests)
    bench.run()
    assert computed(bench) < 241 + 5 * 2 * BLOCK_SIZE
    assert bench.cache.available == bench.pool.total
    assert [bench.tokens(one.id) for one in requests] == alone(*requests)


def test_what_two_have_computed_at_once_is_kept_once() -> None:
    bench = Bench(step_tokens=512)
    bench.submit(request("a", LONG, 9), request("b", LONG, 9))
    bench.step(2)
    assert bench.running("a").blocks[:3] == bench.running("b").blocks[:3]
    assert bench.pool.free == bench.pool.total - 5
    bench.run()
    assert bench.tokens("a") == bench.tokens("b") == alone(request("b", LONG, 9))[0]


@pytest.mark.parametrize(
    "other",
    [
        request("b", LONG, 3, scope=b"another account"),
        request("b", LONG, 3, share=b"another key"),
        request("b", LONG, 3, adapter="one"),
    ],
    ids=["account", "share key", "adapter"],
)
def test_nothing_is_shared_with_another_account_or_adapter(other: GenerateRequest) -> None:
    bench = Bench()
    cost(bench, request("a", LONG, 3))
    assert cost(bench, other) == 122
    assert bench.tokens("b") == alone(other)[0]
    assert bench.stats().cached_tokens == 0


@pytest.mark.parametrize("number", range(50))
def test_how_much_is_computed_for_an_account_does_not_show_what_others_asked(number: int) -> None:
    random = np.random.default_rng(number)
    prompt = random.integers(0, 40, random.integers(30, 200)).tolist()
    adapter = random.choice([None, "the same bytes"])
    primed, cold = Bench(), Bench()
    for _ in range(2):
        cost(primed, request("a", prompt, 5, scope=b"A", adapter=adapter))
    victim = request("b", prompt, 5, scope=b"B", adapter=adapter)
    assert cost(primed, victim) == cost(cold, victim)


def test_probes_neither_use_nor_feed_the_cache() -> None:
    bench = Bench()
    bench.loop._probe_prompt = tuple(LONG)
    for _ in range(2):
        before = computed(bench)
        bench.mailbox.commands.append(ProbeAdapter("probe", request("", adapter="one").adapter))
        bench.run()
        assert computed(bench) - before == 240
    assert cost(bench, request("a", LONG, 1)) == 120
    assert cost(bench, request("a", LONG, 1, adapter="one")) == 120


def test_a_preempted_sequence_gets_its_blocks_back() -> None:
    one = request("a", LONG, 30)
    bench = Bench()
    bench.submit(one)
    bench.step(10)
    blocks = bench.running("a").blocks
    bench.scheduler.preempt(bench.running("a"))
    assert bench.running("a").blocks == []
    before = computed(bench)
    bench.step()
    assert bench.running("a").blocks[:4] == blocks
    assert computed(bench) - before == len(bench.running("a").tokens) - 1 - 4 * BLOCK_SIZE
    bench.run()
    assert bench.tokens("a") == alone(one)[0]


def test_a_cancelled_request_leaves_what_it_has_computed() -> None:
    bench = Bench(step_tokens=40)
    bench.submit(request("a", LONG, 1))
    bench.step(2)
    bench.cancel("a")
    bench.step()
    assert bench.cache.idle == 2
    assert cost(bench, request("b", LONG, 1)) == 120 - 2 * BLOCK_SIZE


def test_a_request_resumed_after_a_restart_finds_its_beginning() -> None:
    one = request("a", LONG, 40)
    whole = alone(one)[0]
    bench = Bench()
    cost(bench, request("b", LONG, 40))
    resumed = request("a", LONG, 40, generated=whole[:20])
    assert cost(bench, resumed) < 20 + BLOCK_SIZE
    assert bench.tokens("a") == whole[20:]


def test_the_least_recently_used_leaves_first_and_an_end_before_its_beginning() -> None:
    bench = Bench(blocks=64, most_idle=5)
    old, new = request("old", [1] * 97, 1), request("new", [2] * 97, 1)
    cost(bench, old)
    cost(bench, new)
    assert bench.cache.idle == 5
    assert cost(bench, request("end", [1] * 65, 1)) == 1
    assert cost(bench, old) == 97 - 2 * BLOCK_SIZE
    assert cost(bench, new) == 97 - 2 * BLOCK_SIZE


def test_no_more_is_kept_than_may_be_and_freed_blocks_are_used_before_untouched_ones() -> None:
    bench = Bench(blocks=64, most_idle=4)
    for first in range(20):
        cost(bench, request("a", [first] * 130, 3))
        assert bench.cache.idle == 4
    assert (bench.runner.cache >= 0).any(axis=1).sum() == 4 + 5


def test_cached_blocks_give_way_when_all_room_is_wanted() -> None:
    bench = Bench(blocks=8)
    cost(bench, request("a", [1] * 200, 1))
    other = request("b", [2] * 230, 20)
    assert cost(bench, other) == 230 + 19
    assert bench.tokens("b") == alone(other)[0]
    assert bench.scheduler.preemptions == 0


def test_an_account_that_floods_the_cache_loses_its_own_blocks_first() -> None:
    bench = Bench(most_idle=12)
    victim = request("victim", LONG, 1, scope=b"victim")
    cost(bench, victim)
    for first in range(30):
        cost(bench, request("flood", [first % 45, *LONG], 1, scope=b"flood"))
    assert cost(bench, victim) == 120 - 3 * BLOCK_SIZE


def test_a_flood_leaves_others_their_half() -> None:
    bench = Bench(most_idle=20)
    victims = [request(str(i), [i] * 97, 1, scope=b"victim %d" % i) for i in range(6)]
    for victim in victims:
        cost(bench, victim)
    for first in range(40):
        cost(bench, request("flood", [first, *LONG], 1, scope=b"flood"))
    kept = {cached.scope for cached in bench.cache._cached.values() if cached.scope != b"flood"}
    assert sum(cached.scope != b"flood" for cached in bench.cache._cached.values()) == 10
    assert kept == {b"victim 2", b"victim 3", b"victim 4", b"victim 5"}


def test_an_account_alone_may_have_everything() -> None:
    bench = Bench(most_idle=20, largest_share=0.1)
    for first in range(10):
        cost(bench, request("a", [first] * 97, 1))
    assert bench.cache.idle == 20


def test_a_key_that_collides_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "block_key", lambda parent, tokens: b"always the same")
    bench = Bench()
    requests = [request(str(i), [i] * 100, 20) for i in range(4)]
    for one in requests:
        assert cost(bench, one) == 119, one.id
    assert [bench.tokens(one.id) for one in requests] == alone(*requests)
    assert bench.cache.available == bench.pool.total


def test_a_cache_that_is_switched_off_shares_nothing() -> None:
    bench = Bench(enabled=False)
    assert cost(bench, request("a", LONG, 1)) == cost(bench, request("b", LONG, 1)) == 120
    assert bench.pool.free == bench.pool.total


def test_other_weights_have_other_keys() -> None:
    keys = []
    for base in (BASE, "other weights"):
        bench = Bench()
        bench.cache = PrefixCache(bench.pool, base, most_idle=64)
        bench.scheduler._cache = bench.cache
        cost(bench, request("a", LONG, 1))
        keys.append(set(bench.cache._cached))
    assert len(keys[0]) == 3
    assert not keys[0] & keys[1]
