"""Constrained requests in the step loop, on a model whose tokens are a function of the text."""

import json

import pytest
from llguidance import LLMatcher
from msgspec.structs import replace
from tests.stepping import NOT_FINITE, TOKENS, Bench, LateExecutor, PromptExecutor, Prophet, request

from gemlora.engines.contract import FinishReason
from gemlora.engines.cpu.frames import Started
from gemlora.engines.cpu.speculation import Speculation

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"enum": ["red", "green"]}}},
    "required": ["name", "tags"],
    "additionalProperties": False,
}
GRAMMAR = LLMatcher.grammar_from_json_schema(SCHEMA)
SHORTEST = len('{"name":"","tags":[]}')


def text(bench: Bench, id: str) -> str:
    return b"".join(TOKENS[token] for token in bench.tokens(id)).decode()


def run(*requests, **arguments) -> Bench:
    bench = Bench(**arguments)
    bench.submit(*requests)
    bench.run()
    return bench


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("most", [SHORTEST, SHORTEST + 1, SHORTEST + 5, 40, 100])
def test_an_answer_is_complete_at_every_bound(most: int, temperature: float) -> None:
    bench = run(request("a", max_tokens=most, grammar=GRAMMAR, temperature=temperature))
    answer = json.loads(text(bench, "a"))
    assert answer.keys() == {"name", "tags"}
    assert len(bench.tokens("a")) <= most


def test_a_bound_that_no_answer_fits_fails_at_once() -> None:
    bench = run(request("a", max_tokens=SHORTEST - 1, grammar=GRAMMAR), request("b"))
    assert bench.failure("a").failure == "unmet"
    assert f"takes {SHORTEST} tokens" in bench.failure("a").message
    assert bench.tokens("a") == ()
    assert len(bench.tokens("b")) == 8


def test_a_wrong_grammar_ends_its_request_alone() -> None:
    bench = run(request("a", grammar="start: nothing"), request("b"), request("c", max_tokens=30, grammar=GRAMMAR))
    assert bench.failure("a").failure == "constraint"
    assert len(bench.tokens("b")) == 8
    assert bench.finish_reason("c")


def test_a_request_waits_for_its_grammar_while_others_go_on() -> None:
    bench = Bench()
    bench.loop._constraints._compiler = late = LateExecutor()
    bench.submit(request("a", max_tokens=30, grammar=GRAMMAR), request("b", max_tokens=3))
    bench.step(5)
    assert Started("a") in bench.mailbox.events
    assert bench.tokens("a") == ()
    assert len(bench.tokens("b")) == 3
    late.run()
    bench.run()
    assert bench.finish_reason("a")


def test_what_was_prepared_is_not_made_again() -> None:
    bench = Bench()
    constraints = bench.loop._constraints
    constraints._compiler = PromptExecutor()
    constraints.prepare()
    made = constraints._vocabulary
    assert made is not None
    bench.submit(request("a", max_tokens=30, grammar=GRAMMAR))
    bench.run()
    assert bench.finish_reason("a")
    assert constraints._vocabulary is made


def test_a_request_that_is_cancelled_while_its_grammar_compiles_is_gone() -> None:
    bench = Bench()
    bench.loop._constraints._compiler = late = LateExecutor()
    bench.submit(request("a", max_tokens=30, grammar=GRAMMAR))
    bench.step()
    bench.cancel("a")
    bench.step()
    late.run()
    bench.step()
    assert bench.tokens("a") == ()
    assert not bench.scheduler.waiting


def test_guesses_change_no_token() -> None:
    from random import Random

    requests = [
        request(f"{seed}", (seed, 2, 3), max_tokens=22 + seed, grammar=GRAMMAR, temperature=1.0, seed=seed)
        for seed in range(12)
    ]
    plain = run(*requests)
    prophet = Prophet(0.8, Random(5))
    prophet.truths = {one.id: (*plain.tokens(one.id), 1, 2) for one in requests}
    guessed = run(*requests, speculation=prophet)
    for one in requests:
        assert guessed.tokens(one.id) == plain.tokens(one.id)
        assert guessed.finish_reason(one.id) is plain.finish_reason(one.id)
    assert guessed.stats().accepted_tokens > 100


def test_what_a_grammar_forces_is_computed_in_few_steps() -> None:
    one = request("a", max_tokens=40, grammar=LLMatcher.grammar_from_json_schema({"const": "yxwvutsrqponmlkjihgf"}))
    plain, guessed = run(one), run(one, speculation=Speculation(8))
    assert guessed.tokens("a") == plain.tokens("a")
    assert text(guessed, "a") == '"yxwvutsrqponmlkjihgf"'
    assert len(plain.runner.rows) == 22
    assert len(guessed.runner.rows) == 4  # the prompt's, and up to nine tokens in each that follows


def test_a_constrained_stream_continues_with_the_same_tokens() -> None:
    whole = request("whole", max_tokens=60, grammar=GRAMMAR, temperature=1.0)
    expected = run(whole).tokens("whole")
    for cut in range(0, len(expected), 7):
        resumed = run(replace(whole, id="resumed", generated=expected[:cut]))
        assert expected[:cut] + resumed.tokens("resumed") == expected


def test_a_text_that_may_end_ends_where_a_stop_token_is_drawn() -> None:
    stop = TOKENS.index(b"z") if b"z" in TOKENS else len(TOKENS) - 1
    grammar = LLMatcher.grammar_from_lark("start: /[a-d]{2}/ /[a-d]*/")
    reasons = set()
    for seed in range(10):
        bench = run(request("a", max_tokens=30, grammar=grammar, temperature=1.0, seed=seed, stop=(stop,)))
        assert len(bench.tokens("a")) >= 2
        assert stop not in bench.tokens("a")
        reasons.add(bench.finish_reason("a"))
    assert FinishReason.STOP in reasons


def test_a_row_without_finite_logits_fails_alone() -> None:
    bench = run(
        request("a", (NOT_FINITE, 1), grammar=GRAMMAR, max_tokens=30), request("b", max_tokens=30, grammar=GRAMMAR)
    )
    assert "not finite" in bench.failure("a").message
    assert bench.finish_reason("b")


def test_a_grammar_that_fails_at_a_mask_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.submit(request("a", max_tokens=30, grammar=GRAMMAR), request("b", max_tokens=30, grammar=GRAMMAR))
    bench.step(3)

    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(bench.running("a").text, "masks", broken)
    bench.run()
    assert bench.failure("a").failure == "engine"
    assert json.loads(text(bench, "b"))
