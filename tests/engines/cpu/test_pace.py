"""How a step's prompt tokens follow from the times of earlier steps, on machines that the tests make up."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import inf
from random import Random

import pytest
from tests.stepping import Bench, request

from gemlora.engines.cpu.pace import OVERRUN, SMALLEST_PROMPT_SHARE, SMALLEST_STEP, Pace
from gemlora.engines.cpu.sequence import Sequence

TARGET = 0.04


@dataclass(frozen=True)
class Machine:
    """Seconds that it takes for each kind of work, and how much they vary."""

    step: float
    row: float
    token: float
    pair: float
    noise: float = 0.1

    def seconds(self, decoding: int, tokens: int, context: int, random: Random) -> float:
        exact = self.step + self.row * decoding + self.token * tokens + self.pair * tokens * context
        return exact * random.uniform(1 - self.noise, 1 + self.noise)


FAST = Machine(0.002, 0.0003, 0.0002, 0.00000005)
STARTER = Machine(0.006, 0.001, 0.0009, 0.0000003)
LARGE = Machine(0.25, 0.02, 0.017, 0.000003)


def prompt(pace: Pace, machine: Machine, decoding: int, length: int, random: Random) -> Iterator[tuple[int, float]]:
    """Tokens and seconds of each step of a prompt while some decode."""
    context = 0
    while context < length:
        pace.begin(decoding)
        tokens = pace.fit(length - context, context)
        seconds = machine.seconds(decoding, tokens, context, random)
        pace.note(seconds)
        context += tokens
        yield tokens, seconds


def busy(machine: Machine, random: Random) -> Pace:
    """A pace that has seen prompts of all kinds with and without others."""
    pace = Pace(512, TARGET)
    for decoding in (0, 4, 8, 0, 2, 16):
        for length in (2000, 30, 500):
            for _ in prompt(pace, machine, decoding, length, random):
                pass
    return pace


@pytest.mark.parametrize("machine", [FAST, STARTER], ids=["fast", "starter"])
@pytest.mark.parametrize("decoding", [0, 1, 8])
def test_steps_take_as_long_as_they_should_whatever_the_machine_and_the_context(
    machine: Machine, decoding: int
) -> None:
    random = Random(1)
    pace = busy(machine, random)
    steps = list(prompt(pace, machine, decoding, 4000, random))[:-1]
    assert max(seconds for _, seconds in steps) < 1.4 * TARGET
    assert sum(seconds for _, seconds in steps) > 0.75 * TARGET * len(steps)


def test_a_machine_that_becomes_slower_is_noticed_within_a_few_steps() -> None:
    random = Random(1)
    pace = busy(STARTER, random)
    slow = Machine(0.018, 0.003, 0.0027, 0.0000009)
    steps = [seconds for _, seconds in prompt(pace, slow, 0, 1500, random)]
    assert max(steps[:3]) > 2 * TARGET
    assert max(steps[12:]) < SMALLEST_STEP * slow.token * 1.1 + slow.step * 1.1 + 0.04


def test_steps_without_prompts_teach_nothing_about_prompts() -> None:
    random = Random(1)
    pace = busy(STARTER, random)
    shorts = [pace.is_short(tokens, 300) for tokens in range(1, 100)]
    for decoding in (1, 8, 16) * 30:
        pace.begin(decoding)
        pace.note(1.5 * STARTER.seconds(decoding, 0, 0, random))
    assert [pace.is_short(tokens, 300) for tokens in range(1, 100)] == shorts


def test_a_single_interruption_hardly_changes_what_fits() -> None:
    random = Random(1)
    pace = busy(FAST, random)
    pace.begin(0)
    before = pace.fit(500, 0)
    pace.note(2.0)
    pace.begin(0)
    assert pace.fit(500, 0) > 0.7 * before


def test_a_large_model_gets_steps_that_are_worth_reading_its_weights() -> None:
    random = Random(1)
    pace = busy(LARGE, random)
    for decoding in (0, 8, 31, 100):
        steps = [tokens for tokens, _ in prompt(pace, LARGE, decoding, 200, random)]
        expected = max(SMALLEST_STEP - decoding, SMALLEST_PROMPT_SHARE)
        assert all(0.7 * expected <= tokens <= 1.3 * expected for tokens in steps[:-1])


def test_without_a_limit_of_time_a_step_is_full() -> None:
    pace = Pace(64, inf)
    pace.begin(10)
    assert pace.fit(40, 0) == 40
    assert pace.fit(40, 1000) == 14
    assert pace.fit(40, 0) == 0


def test_a_chunk_that_completes_its_prompt_may_take_a_little_longer() -> None:
    pace = Pace(512, TARGET)
    pace.begin(0)
    most = pace.fit(500, 0)
    for tokens, fitting in ((int(most * (1 + OVERRUN)), int(most * (1 + OVERRUN))), (2 * most, most)):
        pace.begin(0)
        assert pace.fit(tokens, 0) == fitting


def test_short_prompts_may_be_inserted_until_half_a_steps_time_is_gone() -> None:
    pace = Pace(512, TARGET)
    pace.begin(0)
    longest = next(n for n in count(1) if not pace.is_short(n + 1, 0))
    assert not pace.is_short(longest, 10**6)
    assert not pace.insert(longest + 1, 0)
    assert pace.insert(longest // 2, 0)
    assert not pace.insert(longest, 0)
    assert pace.insert(longest // 2, 0)
    assert not pace.insert(2, 0)
    pace.begin(0)
    assert pace.insert(longest, 0)


def test_no_more_tokens_are_inserted_than_a_step_may_have() -> None:
    pace = Pace(40, inf)
    pace.begin(10)
    assert [pace.insert(30, 0), pace.insert(11, 0), pace.insert(10, 0), pace.insert(1, 0)] == [True, False, True, False]


@pytest.mark.parametrize("machine", [STARTER, LARGE], ids=["starter", "large"])
@pytest.mark.parametrize("tokens", [1, 4])
def test_insertions_one_by_one_take_about_as_long_as_they_may(machine: Machine, tokens: int) -> None:
    pace = busy(machine, Random(1))
    pace.begin(4)
    inserted = 0
    for _ in range(100):
        pace.begin_insertion()
        inserted += pace.insert(tokens, 500)
    each = machine.seconds(1, tokens, 500, Random(1))
    longest = max(TARGET, SMALLEST_STEP * machine.token) / 2
    assert inserted >= 1
    assert (inserted - 1) * each < 1.5 * longest


def test_what_is_short_for_a_large_model_has_as_many_tokens() -> None:
    pace = busy(LARGE, Random(1))
    assert pace.is_short(SMALLEST_STEP // 2 - 1, 0)
    assert not pace.is_short(SMALLEST_STEP, 0)


def test_a_part_of_the_room_leaves_the_rest_to_others() -> None:
    pace = Pace(512, TARGET)
    pace.begin(0)
    whole = pace.fit(500, 0)
    pace.begin(0)
    first = pace.fit(500, 0, part=0.125)
    assert first == whole // 8
    assert pace.fit(500, 0) == pytest.approx(whole - first, abs=1)


def test_a_prompt_moves_even_if_one_token_takes_longer_than_a_step() -> None:
    pace = Pace(512, TARGET)
    pace.begin(600)
    assert pace.fit(100, 0) == 0
    pace.begin(511)
    assert pace.fit(100, 10**9, part=0.125) == 1


def test_times_of_nothing_do_not_stop_it() -> None:
    random = Random(1)
    pace = Pace(512, TARGET)
    for _ in range(5000):
        pace.begin(1)
        pace.fit(500, 100)
        pace.note(0.0)
    steps = [seconds for _ in range(200) for _, seconds in prompt(pace, STARTER, 0, 500, random)]
    assert max(steps[-100:]) < 1.5 * TARGET


def timed(bench: Bench, machine: Machine, random: Random) -> float:
    """One step of the bench and the seconds that it would take on the machine."""
    before = {sequence: sequence.computed for sequence in bench.scheduler.running}
    chunks = bench.scheduler.next_chunks()
    work = [(chunk.length, before.get(chunk.sequence, 0)) for chunk in chunks]
    decoding = sum(length == 1 for length, _ in work)
    seconds = machine.step + machine.row * decoding
    seconds += sum((machine.token + machine.pair * context) * length for length, context in work if length > 1)
    for chunk in chunks:
        completes = chunk.completes
        chunk.sequence.computed += chunk.length
        if completes:
            bench.scheduler.remove(chunk.sequence)
    bench.scheduler.note(seconds := seconds * random.uniform(0.9, 1.1))
    return seconds


@pytest.mark.parametrize("length", [16, 32, 64, 128])
def test_the_first_token_of_a_short_prompt_does_not_wait_for_long_ones(length: int) -> None:
    random = Random(1)
    bench = Bench(blocks=2000, max_sequences=32, step_tokens=512, step_seconds=TARGET, context=4096)

    arrivals = count()

    def arrive(length: int) -> Sequence:
        sequence = Sequence.start(request("", random.choices(range(40), k=length), 1), next(arrivals))
        bench.scheduler.add(sequence)
        return sequence

    def first_token(wait: float = 0.0) -> float:
        """Seconds until a prompt is computed that comes so long before the end of a step."""
        sequence = arrive(length)
        if wait and any(chunk.sequence is sequence for chunk in bench.scheduler.inserted_chunks()):
            bench.scheduler.remove(sequence)
            return STARTER.step + STARTER.token * length
        seconds = wait
        while sequence in (*bench.scheduler.running, *bench.scheduler.waiting):
            seconds += timed(bench, STARTER, random)
        return seconds

    alone = sorted(first_token() for _ in range(50))[25]
    late = []
    for _ in range(5):
        for _ in range(8):
            arrive(2000)
        for _ in range(20):
            step = timed(bench, STARTER, random)
            late.append(first_token(random.uniform(0, step)))
        while bench.scheduler.running:
            timed(bench, STARTER, random)
    assert max(late) <= 3 * alone
