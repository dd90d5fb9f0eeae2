"""Puts what the package ships on the shelf of a server with the starter weights: each content once.

What an operator did is kept: an adapter that was removed or renamed stays away, also when a newer release brings
another content, and one that was put in its place stays. What a release put there, a newer one replaces.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from structlog.typing import FilteringBoundLogger

from gemlora.errors import AdapterNotFound, GemloraError
from gemlora.registry.models import DefaultAdapter, Model
from gemlora.registry.records import Adapter, ShippedContent
from gemlora.registry.repository import AdapterRepository
from gemlora.registry.uploads import Uploads
from gemlora.starter.shipped import CHAT, ShippedAdapter
from gemlora.storage.blocking import in_thread


class StarterShelf:
    """The shelf's part that comes with gemlora."""

    def __init__(
        self,
        repository: AdapterRepository,
        uploads: Uploads,
        shipped: Sequence[ShippedAdapter],
        log: FilteringBoundLogger,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._repository = repository
        self._uploads = uploads
        self._shipped = shipped
        self._log = log
        self._clock = clock

    async def stock(self, account_id: str, model: Model) -> None:
        """Put on the shelf what is new, as the account's; a model that other weights serve gets nothing.

        What fails is logged, and tried again at the next start.
        """
        if not model.starter or not self._shipped:
            return
        noted = await self._repository.list_shipped()
        for shipped in self._shipped:
            try:
                own = [content for content in noted if content.name == shipped.name]
                await self._stock_one(account_id, model, shipped, own)
            except GemloraError as error:
                self._log.warning("starter adapter not published", adapter=shipped.name, cause=str(error))

    async def default_adapter(self, model: Model) -> DefaultAdapter | None:
        """The chat adapter, if the starter weights serve the model and it is on the shelf."""
        chat = await self._shown(CHAT) if model.starter else None
        usable = chat is not None and chat.ready and chat.model == model.name
        return DefaultAdapter(CHAT, optional=True) if usable else None

    async def _stock_one(
        self, account_id: str, model: Model, shipped: ShippedAdapter, noted: Sequence[ShippedContent]
    ) -> None:
        """`noted` are the contents that were considered under this name."""
        shown = await self._shown(shipped.name)
        digests = {one.digest for one in noted}
        ours = shown if shown is not None and shown.files is not None and shown.files.digest in digests else None
        moved = ours is not None and (ours.account_id, ours.model) != (account_id, model.name)
        fingerprint = await in_thread(shipped.fingerprint)
        if fingerprint in {one.fingerprint for one in noted} and not moved:
            return
        digest = await in_thread(shipped.digest)
        never_there = shown is None and not noted
        if (digest not in digests or moved) and (ours is not None or never_there):
            await self._publish(account_id, model, shipped, fingerprint, ours)
        else:
            await self._repository.note_shipped(ShippedContent(shipped.name, digest, fingerprint), self._clock())

    async def _publish(
        self, account_id: str, model: Model, shipped: ShippedAdapter, fingerprint: str, replaced: Adapter | None
    ) -> None:
        description = await in_thread(shipped.description)
        published = await self._uploads.add_shipped(
            account_id, model, shipped.name, shipped.folder, description, fingerprint=fingerprint, replaced=replaced
        )
        if published is not None and published.files is not None:
            self._log.info("starter adapter published", adapter=shipped.name, digest=published.files.digest)

    async def _shown(self, name: str) -> Adapter | None:
        """The adapter on the shelf with this name."""
        try:
            return await self._repository.find_public(name)
        except AdapterNotFound:
            return None
