"""What serves a request: the adapter that it names, one of an alias's versions, or the model's default."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gemlora.aliases.records import Alias, Chosen
from gemlora.aliases.splitting import choose, shadows
from gemlora.errors import AdapterNotFound, AliasNotFound
from gemlora.registry.models import Model
from gemlora.registry.names import BARE_BASE
from gemlora.registry.records import ReadyAdapter
from gemlora.serving.prompt import Prompt


class AdapterResolver(Protocol):
    """What knows the accounts' adapters."""

    async def resolve(self, account_id: str, name_or_id: str, model: Model) -> ReadyAdapter:
        """The adapter that a request names; raises `AdapterNotFound`, `AdapterIncomplete` or `AdapterInvalid`."""
        ...


class AliasFinder(Protocol):
    """What knows the accounts' aliases."""

    async def find(self, account_id: str, name: str) -> Alias:
        """The account's alias of that name; raises `AliasNotFound`."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """What serves a request: an adapter, or None for the base; and how an alias came to it, if one was named."""

    adapter: ReadyAdapter | None
    alias: Chosen | None = None


BARE = Served(None)


class Choosing:
    """Looks up adapters and aliases, which share their names."""

    def __init__(self, adapters: AdapterResolver, aliases: AliasFinder) -> None:
        self._adapters = adapters
        self._aliases = aliases

    async def named(self, account_id: str, name: str, model: Model, key: Callable[[], str]) -> Served:
        """What a request names; requests of one `key` get one version of an alias.

        Raises what `AdapterResolver.resolve` raises.
        """
        if name in ("", BARE_BASE):
            return BARE
        try:
            return Served(await self._adapters.resolve(account_id, name, model))
        except AdapterNotFound as unknown:
            try:
                alias = await self._aliases.find(account_id, name)
            except AliasNotFound:
                raise unknown from None
        drawn = key()
        version = choose(alias, drawn)
        bare = version.name == BARE_BASE
        adapter = None if bare else await self._adapters.resolve(account_id, version.adapter, model)
        return Served(adapter, Chosen(alias, version, shadows(alias, version, drawn)))

    async def default(self, account_id: str, model: Model) -> Served:
        """What serves requests that name nothing."""
        default = model.default_adapter
        if default is None:
            return BARE
        try:
            return Served(await self._adapters.resolve(account_id, default.name, model))
        except AdapterNotFound:
            if default.optional:
                return BARE
            raise


def split_key(prompts: Sequence[Prompt], seed: int | None) -> str:
    """The key of a request that belongs to no conversation: with a seed a function of what is asked, else a new one."""
    if seed is None:
        return secrets.token_hex(16)
    return hashlib.sha256(repr((seed, tuple(prompts))).encode("utf-8", "surrogatepass")).hexdigest()
