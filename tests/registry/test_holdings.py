"""What of the registry goes with an account, and what keeps it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gemlora.errors import AdapterNotFound, InvalidRequest
from gemlora.registry.holdings import AdapterHoldings
from gemlora.registry.records import Adapter

NOW = datetime(2026, 3, 1, tzinfo=UTC)
POET = Adapter("1", "account", "model", "poet", "", False, NOW, NOW)


class FakeAdapters:
    """Lists what it is given; `gone` are removed by somebody else before they can be."""

    def __init__(self, *adapters: Adapter, gone: str = "") -> None:
        self.adapters = adapters
        self.gone = gone
        self.removed: list[str] = []

    async def list(self, account_id: str) -> tuple[Adapter, ...]:
        return tuple(adapter for adapter in self.adapters if adapter.account_id == account_id)

    async def remove(self, account_id: str, name_or_id: str) -> None:
        if name_or_id == self.gone:
            raise AdapterNotFound(name_or_id)
        self.removed.append(name_or_id)


async def test_an_account_s_own_adapters_are_removed() -> None:
    adapters = FakeAdapters(POET, replace(POET, id="2"), replace(POET, id="3", account_id="other"), gone="1")
    holdings = AdapterHoldings(adapters)

    await holdings.check("account")
    await holdings.remove("account")

    assert adapters.removed == ["2"]


async def test_public_adapters_keep_their_account() -> None:
    holdings = AdapterHoldings(FakeAdapters(POET, replace(POET, id="2", name="cf-public-poet", public=True)))

    with pytest.raises(InvalidRequest, match="cf-public-poet"):
        await holdings.check("account")
