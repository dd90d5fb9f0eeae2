from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.stepping import alone, request

from gemlora.engines.cpu.history import TokenHistory
from gemlora.engines.cpu.sampler import sampling_batch
from gemlora.engines.cpu.sequence import Sequence


def sequence(*prompt: int, generated: tuple[int, ...] = (), **sampling) -> Sequence:
    return Sequence.start(request("", prompt or (1, 2), generated=generated, **sampling), 0)


def test_parameters_become_arrays_row_by_row() -> None:
    batch = sampling_batch(
        [
            sequence(temperature=0.7, top_k=5, top_p=0.9, seed=9_999_999_999),
            sequence(
                temperature=5, top_k=50, top_p=2, repetition_penalty=2,
                frequency_penalty=-2, presence_penalty=2, generated=(1,),
            ),
        ]
    )  # fmt: skip
    assert batch.temperature.tolist() == [np.float32(0.7), 5]
    assert batch.top_k.tolist() == [5, 50]
    assert batch.top_p.tolist() == [np.float32(0.9), 2]
    assert batch.seed.tolist() == [9_999_999_999, 0]
    assert batch.index.tolist() == [0, 1]
    assert batch.repetition_penalty.tolist() == [1, 2]
    assert batch.frequency_penalty.tolist() == [0, -2]
    assert batch.presence_penalty.tolist() == [0, 2]
    assert batch.history_ends.tolist() == [0, 2]
    assert batch.history_tokens.tolist() == [1, 2]
    assert batch.history_counts.tolist() == [1, 0]
    assert batch.history_tokens.dtype == batch.history_counts.dtype == np.int32


def test_a_row_behind_a_draft_is_drawn_as_if_the_draft_had_come() -> None:
    one = sequence(seed=3, presence_penalty=1, generated=(7,))
    batch = sampling_batch([one, one, one], [(), (7,), (7, 9)])
    assert batch.index.tolist() == [1, 2, 3]
    assert batch.history_ends.tolist() == [3, 6, 10]
    assert batch.history_tokens.tolist() == [1, 2, 7, 1, 2, 7, 1, 2, 7, 9]
    assert batch.history_counts.tolist() == [0, 0, 1, 0, 0, 2, 0, 0, 2, 1]
    assert one.history.counts.tolist() == [0, 0, 1]


@pytest.mark.parametrize("temperature", [0, 1e-6])
def test_a_temperature_next_to_zero_is_greedy(temperature: float) -> None:
    assert sampling_batch([sequence(temperature=temperature)]).temperature.tolist() == [0]


def test_what_is_off_is_off() -> None:
    batch = sampling_batch([sequence(repetition_penalty=0, top_k=None)])
    assert batch.repetition_penalty.tolist() == [1]
    assert batch.top_k.tolist() == [0]


@pytest.mark.parametrize("penalty", ["repetition_penalty", "frequency_penalty", "presence_penalty"])
def test_only_requests_with_penalties_keep_a_history(penalty: str) -> None:
    assert sequence(repetition_penalty=0).history is None
    assert sequence(repetition_penalty=1).history is None
    assert sequence(**{penalty: 0.5}).history is not None


@example(prompt=list(range(500)), generated=[3], rest=list(range(400, 700)))
@given(
    prompt=st.lists(st.integers(0, 300)), generated=st.lists(st.integers(0, 300)), rest=st.lists(st.integers(0, 300))
)
def test_the_history_is_kept_incrementally(prompt: list[int], generated: list[int], rest: list[int]) -> None:
    history = TokenHistory(prompt, generated)
    for token in rest:
        history.append(token)
    output = Counter(generated + rest)
    expected = {token: output[token] for token in prompt + generated + rest}
    assert dict(zip(history.tokens.tolist(), history.counts.tolist(), strict=True)) == expected
    assert len(history.tokens) == len(expected)


def test_the_same_seed_gives_the_same_tokens_and_another_one_others() -> None:
    first, again, other = (alone(request("a", max_tokens=20, temperature=1.0, seed=seed))[0] for seed in (5, 5, 6))
    assert first == again
    assert first != other
