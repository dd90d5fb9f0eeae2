"""The comparison, on servers that only say that they answered."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from benchmarks.client import Answer
from benchmarks.compare import PROMPT, TOKENS, Plan, compare, figures_of
from benchmarks.machine import Limits
from benchmarks.peers.peer import Clients, Question


@dataclass
class FakePeer:
    """Answers each question after so many seconds; writes down its starts and its questions."""

    name: str
    seconds: float
    starts: list[str]
    counted: int = PROMPT
    asked: list[Question] = field(default_factory=list)
    version: str = "1"
    pid: int = 0

    @contextmanager
    def serve(self) -> Iterator["FakePeer"]:
        self.starts.append(self.name)
        yield self

    def ask(self, question: Question) -> Answer:
        return self.answer([[question]])[0]

    def answer(self, clients: Clients) -> list[Answer]:
        questions = [question for client in clients for question in client]
        self.asked += questions
        return [Answer(0, self.seconds / 2, self.seconds, self.counted, question.tokens) for question in questions]


class FakePrompts:
    """Numbers."""

    def __init__(self) -> None:
        self._drawn = 0

    def draw(self, tokens: int) -> str:
        self._drawn += 1
        return f"{self._drawn}: {tokens}"


class FakeMachine:
    """Always the same."""

    def limits(self) -> list[Limits]:
        return [Limits(2, 400.0, 30.0)]


def peers(starts: list[str]) -> list[FakePeer]:
    return [FakePeer("gemlora", 1, starts), FakePeer("slow", 4, starts), FakePeer("slower", 8, starts)]


def test_servers_take_turns_in_an_order_that_rotates_after_a_probe_each_round() -> None:
    starts: list[str] = []
    rounds = compare(peers(starts), Plan([1, 2], turns=1), 2, FakePrompts(), FakeMachine())  # type: ignore[arg-type]

    assert starts == ["gemlora", "slow", "slower", "slow", "slower", "gemlora"]
    assert [each["limits"][0]["read_gigabytes_per_second"] for each in rounds] == [30, 30]


def test_no_prompt_is_asked_twice_and_mixes_differ_in_the_adapters_alone() -> None:
    servers = peers([])
    compare(servers, Plan([2], turns=1), 2, FakePrompts(), FakeMachine())  # type: ignore[arg-type]
    prompts = [question.prompt for server in servers for question in server.asked]
    loads = [question.adapter for question in servers[0].asked if question.tokens == TOKENS]

    assert len(prompts) == len(set(prompts))
    assert loads[2 : 2 + 6] == [None, None, 0, 0, 0, 1]


def test_short_loads_are_repeated_with_new_prompts_until_they_took_so_long() -> None:
    servers = peers([])
    plan = Plan([2], turns=1, seconds=4.5)
    [measured] = compare(servers, plan, 1, FakePrompts(), FakeMachine())  # type: ignore[arg-type]
    prompts = [question.prompt for question in servers[0].asked]

    assert {name: each["different_2_loads"] for name, each in measured["figures"].items()} == {
        "gemlora": 5, "slow": 2, "slower": 1,
    }  # fmt: skip
    assert measured["figures"]["gemlora"]["different_2_tokens_per_second"] == 2 * TOKENS
    assert measured["figures"]["gemlora"]["different_2_requests"] == 2
    assert len(prompts) == len(set(prompts)) == 1 + 2 + 3 * 5 * 2


def test_ratios_are_taken_within_rounds() -> None:
    rounds = compare(peers([]), Plan([2], turns=1), 3, FakePrompts(), FakeMachine())  # type: ignore[arg-type]
    figures = figures_of(rounds, ["gemlora", "slow", "slower"])

    assert figures["gemlora.different_2_tokens_per_second"] == 2 * TOKENS
    assert figures["different_2_tokens_per_second_over_slow"] == 4
    assert figures["different_2_first_token_median_over_slower"] == 1 / 8


def test_a_server_that_counts_other_prompts_is_not_compared() -> None:
    wrong = FakePeer("gemlora", 1, [], counted=PROMPT + 1)

    with pytest.raises(ValueError, match="128 tokens were asked for"):
        compare([wrong], Plan([1], turns=1), 1, FakePrompts(), FakeMachine())  # type: ignore[arg-type]
