"""Plans that cannot work are refused, and the learning rate rises and falls."""

import pytest

from gemlora.errors import SettingsInvalid
from gemlora.training.plan import Plan


def test_all_wrong_values_are_told_of_at_once() -> None:
    with pytest.raises(SettingsInvalid, match=r"rank must be 1 to 256; .*modules must be among .*; epochs"):
        Plan(rank=0, modules=("q_proj", "queries"), epochs=0)


def test_the_learning_rate_rises_and_falls() -> None:
    plan = Plan(learning_rate=1.0, warmup=0.1)
    rates = [plan.rate(step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.1 < rates[-1] < 0.11
