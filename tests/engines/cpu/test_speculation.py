"""Guesses are made where they pay, and whatever they are, every request gets the tokens that it would get without."""

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.stepping import NOT_FINITE, RAISING, VOCABULARY, Bench, Prophet, alone, request

from gemlora.engines.contract import FinishReason
from gemlora.engines.cpu.blocks import BLOCK_SIZE
from gemlora.engines.cpu.frames import Delivered
from gemlora.engines.cpu.sequence import Sequence
from gemlora.engines.cpu.speculation import MOST_ROWS, Speculation

REPETITIVE = [*range(10, 40), *range(10, 40), *range(10, 20)]
NOVEL = [*range(100, 170)]


def sequence(tokens: list[int]) -> Sequence:
    return Sequence.start(request("", tokens), 0)


def drafts(speculation: Speculation, *texts: list[int], room: int = 100) -> list[list[int]]:
    sequences = [sequence(text) for text in texts]
    found = speculation.drafts(dict.fromkeys(sequences, room))
    return [found.get(one, []) for one in sequences]


def test_a_text_that_repeats_itself_gets_a_draft_and_another_gets_none() -> None:
    assert drafts(Speculation(6), REPETITIVE, NOVEL) == [[*range(20, 26)], []]


class Forcing:
    """A constrained text that must go on in one way."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens

    def forced(self) -> list[int]:
        return self._tokens


@pytest.mark.parametrize("text", [NOVEL, REPETITIVE])
def test_what_a_grammar_forces_is_guessed_before_what_the_text_repeats(text: list[int]) -> None:
    one = sequence(text)
    one.text = Forcing([7, 8, 9])
    assert Speculation(6).drafts({one: 100}) == {one: [7, 8, 9]}
    assert Speculation(6).drafts({one: 2}) == {one: [7, 8]}
    assert Speculation(0).drafts({one: 100}) == {}


def test_where_a_grammar_forces_nothing_the_text_is_asked() -> None:
    one = sequence(REPETITIVE)
    one.text = Forcing([])
    assert Speculation(3).drafts({one: 100}) == {one: [20, 21, 22]}


def test_no_draft_is_longer_than_it_may_be() -> None:
    assert drafts(Speculation(3), REPETITIVE) == [[20, 21, 22]]
    assert drafts(Speculation(6), REPETITIVE, room=2) == [[20, 21]]
    assert drafts(Speculation(6), REPETITIVE, room=0) == [[]]


def test_without_drafts_no_text_is_read() -> None:
    one = sequence(REPETITIVE)
    assert Speculation(0).drafts({one: 100}) == {}
    assert next(one.drafter.guesses(one.tokens), None) is None


def test_a_large_batch_gets_no_drafts() -> None:
    assert any(drafts(Speculation(6), *[REPETITIVE] * (MOST_ROWS - 1)))
    assert not any(drafts(Speculation(6), *[REPETITIVE] * MOST_ROWS))


@pytest.mark.parametrize("count", range(1, MOST_ROWS))
def test_sequences_and_guesses_together_are_bounded(count: int) -> None:
    assert sum(map(len, drafts(Speculation(64), *[REPETITIVE] * count))) <= MOST_ROWS - count


def test_a_doubtful_guess_is_left_out_where_likelier_ones_make_rows_worth_more() -> None:
    doubtful = [1, 2, 3, 90, 1, 2]
    assert drafts(Speculation(64), doubtful)[0][:1] == [3]
    assert drafts(Speculation(1), doubtful, REPETITIVE) == [[3], [20]]
    assert drafts(Speculation(64), doubtful, REPETITIVE)[0] == []


def test_a_text_whose_promises_were_broken_gets_no_draft_until_it_repeats_itself_again() -> None:
    text = [1, 2]
    for number in range(20):
        text += [100 + number, 1, 2]
    assert drafts(Speculation(6), text) == [[]]
    assert drafts(Speculation(6), [*text, *range(60, 80), *range(60, 70)]) == [[*range(70, 76)]]


def prophesied(*requests, accuracy: float = 1.0, seed: int = 0, **sizes: int) -> Bench:
    """A bench that has computed the requests with guesses of that accuracy."""
    prophet = Prophet(accuracy, Random(seed))
    prophet.learn(*requests)
    bench = Bench(speculation=prophet, **sizes)
    bench.submit(*requests)
    bench.run()
    return bench


def test_right_guesses_save_steps_and_are_counted() -> None:
    one = request("a", max_tokens=100)
    bench = prophesied(one)
    assert bench.tokens("a") == alone(one)[0]
    stats = bench.stats()
    assert stats.steps < 50
    assert stats.drafted_tokens == stats.accepted_tokens == 100 - stats.steps
    assert (stats.prompt_tokens, stats.output_tokens) == (2, 100)


def test_wrong_guesses_are_counted_and_change_nothing() -> None:
    one = request("a", max_tokens=100)
    bench = prophesied(one, accuracy=0)
    assert bench.tokens("a") == alone(one)[0]
    stats = bench.stats()
    assert stats.drafted_tokens > 10 * stats.accepted_tokens
    assert (stats.prompt_tokens, stats.output_tokens) == (2, 100)


def test_a_text_that_repeats_itself_saves_steps() -> None:
    one = request("a", [7], max_tokens=100, repetition_penalty=0.001)  # so that what was said is said again
    bench = Bench(speculation=Speculation(8))
    bench.submit(one)
    bench.run()
    assert bench.tokens("a") == alone(one)[0]
    assert bench.stats().steps < 90


@pytest.mark.parametrize("place", range(12))
def test_a_stop_token_ends_a_request_wherever_it_stands_in_a_draft(place: int) -> None:
    whole = alone(request("a", max_tokens=20))[0]
    one = request("a", max_tokens=20, stop=(whole[place],))
    bench = prophesied(one, seed=place)
    assert bench.tokens("a") == whole[: whole.index(whole[place])]
    assert bench.finish_reason("a") is FinishReason.STOP
    assert bench.stats().output_tokens == whole.index(whole[place]) + 1


def test_max_tokens_and_the_context_window_end_requests_in_the_middle_of_a_draft() -> None:
    for most in range(1, 12):
        assert len(prophesied(request("a", max_tokens=most), seed=most).tokens("a")) == most
    bench = prophesied(request("a", [5] * 90, max_tokens=400), context=100)
    assert len(bench.tokens("a")) == 10
    assert bench.finish_reason("a") is FinishReason.LENGTH


@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_spent_on_what_may_not_come(seed: int) -> None:
    assert prophesied(request("a", max_tokens=2), seed=seed).runner.rows == [3, 1]


@pytest.mark.parametrize("poison", [NOT_FINITE, RAISING])
def test_a_guess_that_cannot_be_computed_harms_nobody(poison: int) -> None:
    class Poisoner(Prophet):
        def _wrong(self) -> int:
            return poison

    requests = [request(str(number), [number], max_tokens=30) for number in range(3)]
    prophet = Poisoner(0.7, Random(0))
    prophet.learn(*requests)
    bench = Bench(speculation=prophet)
    bench.submit(*requests)
    bench.run()
    assert [bench.tokens(one.id) for one in requests] == alone(*requests)


def test_what_came_before_a_failure_is_delivered() -> None:
    class Breaking(Prophet):
        def _draft(self, sequence: Sequence, room: int) -> list[int]:
            return [*self.truths["a"][sequence.generated :]][:3]

    prophet = Breaking(1, Random(0))
    prophet.truths["a"] = alone(request("a", max_tokens=20))[0]
    bench = Bench(speculation=prophet)
    bench.submit(request("a", max_tokens=20))
    bench.step()
    forward = bench.runner.forward

    def failing(batch, between):
        output = forward(batch, between)
        output.most_likely[2] = -1
        return output

    bench.runner.forward = failing
    bench.step()
    assert bench.failure("a").failure == "engine"
    assert bench.tokens("a") == prophet.truths["a"][:3]
    assert isinstance(bench.mailbox.events[-3], Delivered)
    assert bench.scheduler.free_blocks == bench.scheduler.blocks


def test_drafts_leave_blocks_for_the_others_and_tokens_for_prompts() -> None:
    one = request("a", [3] * (BLOCK_SIZE - 1), max_tokens=100)
    prophet = Prophet(1, Random(1))
    prophet.learn(one)
    bench = Bench(blocks=2, speculation=prophet)
    bench.submit(one)
    bench.run()
    assert bench.tokens("a") == alone(one)[0][: 2 * BLOCK_SIZE - len(one.prompt)]
    bench = Bench(step_tokens=17, speculation=prophet)
    bench.submit(one)
    bench.step(2)
    bench.submit(request("long", range(1, 41)))
    for done in (12, 24, 36):
        bench.step()
        assert bench.running("long").computed >= done


SAMPLING = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 5.0]),
        "seed": st.integers(0, 5),
        "top_k": st.sampled_from([None, 1, 5]),
        "top_p": st.sampled_from([0.5, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 0.01, 1.5]),
        "frequency_penalty": st.sampled_from([0.0, 0.0, 2.0, -2.0]),
        "presence_penalty": st.sampled_from([0.0, 0.0, 2.0]),
    }
)
REQUEST = st.tuples(
    st.lists(st.integers(0, 8), min_size=1, max_size=80), st.integers(1, 40), st.sets(st.integers(0, 44), max_size=2),
    st.sampled_from([None, "one", "two"]), SAMPLING,
)  # fmt: skip


@example(drawn=[([1, 2, 1, 2], 40, set(), None, {"frequency_penalty": -2.0})], accuracy=1.0, blocks=4, step_tokens=40)
@given(
    drawn=st.lists(REQUEST, min_size=1, max_size=5),
    accuracy=st.sampled_from([None, 0.0, 0.5, 0.9, 1.0]),
    blocks=st.integers(4, 12),
    step_tokens=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_tokens_are_those_without_guesses_in_every_company(
    drawn: list, accuracy: float | None, blocks: int, step_tokens: int
) -> None:
    requests = [
        request(str(number), prompt, most, stop=tuple(stop), adapter=adapter, **sampling)
        for number, (prompt, most, stop, adapter, sampling) in enumerate(drawn)
    ]
    speculation = Speculation(8) if accuracy is None else Prophet(accuracy, Random(0), VOCABULARY)
    if isinstance(speculation, Prophet):
        speculation.learn(*requests)
    bench = Bench(blocks, step_tokens=step_tokens, speculation=speculation)
    bench.submit(*requests)
    bench.run()
    for one, tokens in zip(requests, alone(*requests), strict=True):
        assert bench.tokens(one.id) == tokens[: bench.scheduler.capacity - len(one.prompt)]
    assert bench.scheduler.free_blocks == bench.scheduler.blocks
