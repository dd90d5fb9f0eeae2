"""Rates from the moments at which tokens came."""

import pytest
from benchmarks.engine_load import Timing, decode_rate


def timing(first: float, step: float, tokens: int, late: float = 0.0) -> Timing:
    """A sequence that gets a token a step, each a little after the step's end."""
    return Timing(0.0, tuple(first + step * index + late for index in range(tokens)))


def test_sequences_that_decode_together_have_the_rate_of_the_steps() -> None:
    together = [timing(1.0, 0.5, 20, late=0.001 * place) for place in range(16)]
    assert decode_rate(together) == pytest.approx(16 / 0.5)


def test_what_is_decoded_beside_prompts_does_not_count() -> None:
    early = Timing(0.0, (1.0, 3.0, 5.0, 5.5, 6.0, 6.5))
    assert decode_rate([early, timing(4.999, 0.5, 9)]) == pytest.approx(2 / 0.5)


def test_tokens_of_one_step_count_from_the_next_on() -> None:
    assert decode_rate([Timing(0.0, (1.0, 1.0, 1.0, 2.0, 2.0, 3.0))]) == pytest.approx(3 / 2)
