"""Answers by account and adapter."""

from datetime import UTC, datetime

from gemlora.serving.uses import Use, Uses

START = datetime(2026, 1, 1, tzinfo=UTC)


def test_each_account_has_its_own_count_of_each_adapter() -> None:
    uses = Uses(START)
    for account, adapter in (("alice", "pirate"), ("alice", "pirate"), ("alice", "poet"), ("bob", "pirate")):
        uses.count(account, adapter)

    counts = [uses.of(*pair) for pair in (("alice", "pirate"), ("alice", "poet"), ("bob", "pirate"), ("bob", "poet"))]
    assert counts == [Use(2, START), Use(1, START), Use(1, START), Use(0, START)]
