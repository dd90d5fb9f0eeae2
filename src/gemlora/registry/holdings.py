"""What of the registry belongs to an account and goes with it."""

from gemlora.errors import StillNeeded
from gemlora.registry.adapters import Adapters


class AdapterHoldings:
    """An account's adapters; see `Holdings` of the room `accounts`."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters

    async def check(self, account_id: str) -> None:
        """Raise `StillNeeded` if the account published adapters, which every account may be using."""
        public = [adapter.name for adapter in await self._adapters.list(account_id) if adapter.public]
        if public:
            raise StillNeeded(f"the account has public adapters, delete them first: {', '.join(public)}")

    async def remove(self, account_id: str) -> None:
        """Remove all adapters of the account."""
        await self._adapters.remove_all(account_id)
