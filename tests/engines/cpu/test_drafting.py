"""A drafter continues a text as it went on before."""

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemlora.engines.cpu.drafting import LIKELIHOODS, Drafter, Guess

TEXTS = st.lists(st.integers(0, 3), max_size=60)


def drafter_of(text: list[int]) -> Drafter:
    drafter = Drafter()
    drafter.read(text)
    return drafter


def guesses(text: list[int], count: int) -> list[Guess]:
    return list(islice(drafter_of(text).guesses(text), count))


def guessed(text: list[int], count: int) -> list[int]:
    return [guess.token for guess in guesses(text, count)]


def test_a_text_goes_on_as_after_the_latest_earlier_occurrence_of_its_last_two_tokens() -> None:
    assert guessed([1, 2, 3, 9, 1, 2, 4, 5, 6, 8, 1, 2], 4) == [4, 5, 6, 8]


@pytest.mark.parametrize("text", [[], [1], [1, 2], [1, 1], [1, 2, 3, 2, 4], [1, 2, 3, 4, 1]])
def test_nothing_is_guessed_where_the_last_two_tokens_are_new(text: list[int]) -> None:
    assert guessed(text, 3) == []


def test_a_repetition_is_continued_beyond_the_end_of_the_text() -> None:
    assert guessed([5, 5, 5], 4) == [5, 5, 5, 5]
    assert guessed([7, 1, 2, 3, 1, 2], 7) == [3, 1, 2, 3, 1, 2, 3]


def test_a_longer_match_is_trusted_more() -> None:
    first = [guesses([*range(length), 99, *range(length)], 1)[0].likelihood for length in (2, 4, 8, 16)]
    assert first == sorted(set(first))
    assert first[0] == LIKELIHOODS[0]


def test_how_often_a_text_kept_its_promises_is_remembered() -> None:
    kept, broken = [1, 2], [1, 2]
    for number in range(10):
        kept += [3, 100 + number, 1, 2]
        broken += [3 + number, 100 + number, 1, 2]
    assert guesses(kept, 1)[0].likelihood > LIKELIHOODS[0] > 2 * guesses(broken, 1)[0].likelihood


@given(text=TEXTS)
def test_a_first_guess_stands_behind_an_occurrence_of_the_last_two_tokens(text: list[int]) -> None:
    followers = [text[i + 2] for i in range(len(text) - 2) if text[i : i + 2] == text[-2:]]
    if followers:
        assert guessed(text, 1)[0] in followers
    else:
        assert guessed(text, 1) == []


@given(text=TEXTS, cuts=st.lists(st.integers(0, 60)))
def test_a_text_may_be_read_in_pieces(text: list[int], cuts: list[int]) -> None:
    drafter = Drafter()
    for cut in sorted(cuts):
        drafter.read(text[:cut])
    drafter.read(text)
    assert list(islice(drafter.guesses(text), 20)) == guesses(text, 20)


@given(text=TEXTS)
def test_each_guess_is_less_likely_than_the_one_before(text: list[int]) -> None:
    likelihoods = [1.0, *(guess.likelihood for guess in guesses(text, 20))]
    assert all(0 < later < earlier for earlier, later in pairwise(likelihoods))
