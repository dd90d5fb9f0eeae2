"""What of the registry goes with an account, and what keeps it."""

from pathlib import Path

import pytest
from tests.registry.conftest import ALICE, BOB, Registry
from tests.registry.peft_folder import MODEL, PeftFolder

from gemlora.errors import StillNeeded
from gemlora.registry.holdings import AdapterHoldings


async def test_an_account_s_own_adapters_are_removed(registry: Registry, tmp_path: Path) -> None:
    holdings, folder = AdapterHoldings(registry.adapters), PeftFolder().write(tmp_path / "peft")
    poet = await registry.uploads.add(ALICE, MODEL, "poet", folder)
    await registry.uploads.create(ALICE, MODEL, "half")
    kept = await registry.uploads.create(BOB, MODEL, "poet")

    await holdings.check(ALICE)
    await holdings.remove(ALICE)

    assert await registry.adapters.list(ALICE) == ()
    assert await registry.adapters.list(BOB) == (kept,)
    assert registry.probe.unloaded == [poet.files.digest]


async def test_public_adapters_keep_their_account(registry: Registry) -> None:
    await registry.uploads.create(ALICE, MODEL, "cf-public-poet", public=True)

    with pytest.raises(StillNeeded, match="cf-public-poet"):
        await AdapterHoldings(registry.adapters).check(ALICE)
