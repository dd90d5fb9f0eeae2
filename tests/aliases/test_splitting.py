"""Which version a request gets: by the weights, always the same one, and moved by a change only where it must."""

from dataclasses import replace
from datetime import UTC, datetime

from gemlora.aliases.records import Action, Alias, Revision, Version
from gemlora.aliases.splitting import choose, shadows

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


def test_a_shadow_answers_its_share_of_keys_whoever_serves_them() -> None:
    split = alias(1, 1, 0)
    versions = (*split.current.versions[:2], Version("v2", 0, "id-2", shadow=0.2))
    split = replace(split, current=replace(split.current, versions=versions))
    for served in versions[:2]:
        keys = [key for key in KEYS if choose(split, key) is served]
        shadowed = sum(shadows(split, served, key) == (versions[2],) for key in keys)

        assert abs(shadowed / len(keys) - 0.2) < 0.04


def test_a_larger_share_adds_keys_and_takes_none_away() -> None:
    def shadowed(share: float) -> set[str]:
        split = alias(1)
        served = split.current.versions[0]
        versions = (served, Version("v1", 0, "id-1", shadow=share))
        split = replace(split, current=replace(split.current, versions=versions))
        return {key for key in KEYS if shadows(split, served, key)}

    assert set() == shadowed(0) < shadowed(0.1) < shadowed(0.4) < shadowed(1) == {*KEYS}


def test_a_version_is_not_its_own_shadow() -> None:
    split = alias(1)
    served = Version("v0", 1, "id-0", shadow=1)
    split = replace(split, current=replace(split.current, versions=(served,)))

    assert shadows(split, served, "key") == ()
