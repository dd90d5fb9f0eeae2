"""Which version a request gets: by the weights, always the same one, and moved by a change only where it must."""

from datetime import UTC, datetime

from gemlora.aliases.records import Action, Alias, Revision, Version
from gemlora.aliases.splitting import choose

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEYS = [f"conversation {number}" for number in range(4000)]


def alias(*weights: float) -> Alias:
    versions = tuple(Version(f"v{number}", weight, f"id-{number}") for number, weight in enumerate(weights))
    return Alias("alias", "a" * 32, "bot", NOW, Revision(1, NOW, "token", Action.SET, "", versions))


def chosen(split: Alias) -> list[str]:
    return [choose(split, key).name for key in KEYS]


def test_shares_are_as_the_weights_say() -> None:
    shares = chosen(alias(70, 25, 5, 0))

    assert abs(shares.count("v0") / len(KEYS) - 0.70) < 0.03
    assert abs(shares.count("v1") / len(KEYS) - 0.25) < 0.03
    assert abs(shares.count("v2") / len(KEYS) - 0.05) < 0.015
    assert "v3" not in shares


def test_a_key_keeps_its_version_and_the_scale_of_weights_does_not_matter() -> None:
    assert chosen(alias(3, 1)) == chosen(alias(3, 1)) == chosen(alias(0.75, 0.25))


def test_a_change_of_weights_moves_keys_only_to_the_version_that_gained() -> None:
    moved = {(old, new) for old, new in zip(chosen(alias(90, 10)), chosen(alias(70, 30)), strict=True) if old != new}

    assert moved == {("v0", "v1")}


def test_aliases_split_independently_of_each_other() -> None:
    other = Alias("other", "a" * 32, "bot", NOW, alias(1, 1).current)
    equal = sum(one == two for one, two in zip(chosen(alias(1, 1)), chosen(other), strict=True))

    assert abs(equal / len(KEYS) - 0.5) < 0.04
