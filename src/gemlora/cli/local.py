"""A data folder as the target of commands, also while a server runs on it.

What a running server must know of is asked of that server: a new adapter is tried out by its engine, and a removed one
leaves its memory. The rest is read and written beside it.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from httpx2 import ASGITransport, AsyncClient

from gemlora.accounts.records import NewToken, Scope
from gemlora.accounts.service import LENT_FOR
from gemlora.api.accounts import account_body, token_body
from gemlora.api.aliases import alias_body, pair_body, revision_body, wanted_of
from gemlora.api.finetunes import finetune_body
from gemlora.app.application import Records, open_application, open_engine, open_records
from gemlora.app.backend import starting_backend
from gemlora.cli.remote import RemoteTarget
from gemlora.cli.targets import Record, Target
from gemlora.cli.transfers import CHUNK, downloading, opened, write_download
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import AdapterNotFound, AliasNotFound, ServerUnreachable
from gemlora.evaluation.asking import account_client
from gemlora.settings import Settings
from gemlora.storage.data import DataFolder
from gemlora.storage.servers import find_server
from gemlora.telemetry.logs import create_logger

if TYPE_CHECKING:
    from gemlora.app.scoring import Exchange, Likelihood

T = TypeVar("T")

CONVERSATION_FOR = timedelta(days=7)
"""Longer than any evaluation takes."""

COMMAND_LINE = "command line"
"""Who made a revision of an alias, in the place of a token's id."""


class LocalTarget:
    """The data folder of `settings`, and one of its accounts: the first one unless `account` names another."""

    def __init__(self, settings: Settings, account: str | None) -> None:
        self._settings = settings
        self._account = account
        self.model = settings.model

    def list_adapters(self) -> list[Record]:
        """See `Target`."""

        async def work(records: Records) -> list[Record]:
            account_id = await self._find_account(records)
            return [] if account_id is None else [finetune_body(one) for one in await records.adapters.list(account_id)]

        return self._run(work)

    def show_adapter(self, name: str) -> Record:
        """See `Target`."""

        async def work(records: Records) -> Record:
            account_id = await self._find_account(records)
            if account_id is None:
                raise AdapterNotFound(name)
            return finetune_body(await records.adapters.find_visible(account_id, name))

        return self._run(work)

    def add_adapter(self, name: str, folder: Path, description: str, public: bool, progress: Progress) -> Record:
        """See `Target`. Without a running server an engine is started to try the adapter out."""
        with self._server() as server:
            if server is not None:
                return server.add_adapter(name, folder, description, public, progress)
        return asyncio.run(self._add(name, folder, description, public, progress))

    def download_adapter(self, name: str, folder: Path, progress: Progress) -> None:
        """See `Target`."""

        async def work(records: Records) -> None:
            account_id = await self._find_account(records)
            if account_id is None:
                raise AdapterNotFound(name)
            adapter = await records.adapters.find(account_id, name)
            with downloading(folder) as paths:
                for file_name, path in paths.items():
                    source = await records.adapters.open_file(adapter, file_name)
                    with opened(source) as file:
                        chunks = iter(lambda: file.read(CHUNK), b"")
                        write_download(path, chunks, source.stat().st_size, f"Copying {file_name}", progress)

        self._run(work)

    def remove_adapter(self, name: str) -> None:
        """See `Target`."""

        async def work(records: Records) -> None:
            await records.adapters.remove(await self._prepare_account(records), name)

        self._ask(lambda server: server.remove_adapter(name), work)

    def publish_adapter(self, name: str, public_name: str) -> Record:
        """See `Target`."""

        async def work(records: Records) -> Record:
            account_id = await self._prepare_account(records)
            adapter = await records.adapters.find(account_id, name)
            return finetune_body(await records.uploads.publish(adapter, account_id, public_name))

        return self._run(work)

    def converse(self, work: Callable[[AsyncClient], Awaitable[T]], progress: Progress) -> T:
        """See `Target`. Without a running server there is one in this process, for this work alone."""
        with self._server(CONVERSATION_FOR) as server:
            if server is not None:
                return server.converse(work, progress)
        return asyncio.run(self._converse(work, progress))

    def likelihoods(
        self,
        exchanges: "Sequence[Exchange]",
        adapters: Sequence[str | None],
        progress: Progress,
        counted: Callable[[int, int], None],
    ) -> "list[list[Likelihood]]":
        """See `Target`. They are computed in this process, also while a server runs."""
        from gemlora.app.scoring import open_reader

        reader = open_reader(self._settings, progress)

        async def work(records: Records) -> "list[list[Likelihood]]":
            loaded = await reader.adapters(records, await self._prepare_account(records), adapters)
            return reader.likelihoods(exchanges, loaded, counted)

        return self._run(work)

    def list_aliases(self) -> list[Record]:
        """See `Target`."""

        async def work(records: Records) -> list[Record]:
            account_id = await self._find_account(records)
            return [] if account_id is None else [alias_body(one) for one in await records.aliases.list(account_id)]

        return self._run(work)

    def show_alias(self, name: str) -> Record:
        """See `Target`."""

        async def work(records: Records) -> Record:
            alias = await records.aliases.find(await self._find_account(records) or "", name)
            return alias_body(alias, await records.aliases.standing(alias))

        return self._run(work)

    def set_alias(self, name: str, wanted: Record) -> Record:
        """See `Target`. Requests read aliases anew, so no server need be told."""

        async def work(records: Records) -> Record:
            account_id, described = await self._prepare_account(records), wanted_of(wanted, COMMAND_LINE)
            try:
                alias = await records.aliases.change(account_id, name, described)
            except AliasNotFound:
                alias = await records.aliases.create(account_id, name, described)
            return alias_body(alias, await records.aliases.standing(alias))

        return self._run(work)

    def promote_alias(self, name: str, version: str, note: str) -> Record:
        """See `Target`."""

        async def work(records: Records) -> Record:
            account_id = await self._prepare_account(records)
            alias = await records.aliases.promote(account_id, name, version, COMMAND_LINE, note)
            return alias_body(alias, await records.aliases.standing(alias))

        return self._run(work)

    def roll_back_alias(self, name: str, revision: int | None, note: str) -> Record:
        """See `Target`."""

        async def work(records: Records) -> Record:
            account_id = await self._prepare_account(records)
            alias = await records.aliases.roll_back(account_id, name, COMMAND_LINE, note, revision)
            return alias_body(alias, await records.aliases.standing(alias))

        return self._run(work)

    def list_alias_revisions(self, name: str) -> list[Record]:
        """See `Target`."""

        async def work(records: Records) -> list[Record]:
            account_id = await self._find_account(records) or ""
            alias = await records.aliases.find(account_id, name)
            _, revisions = await records.aliases.revisions(account_id, name, 0, alias.current.number)
            return [revision_body(revision, standing) for revision, standing in revisions]

        return self._run(work)

    def list_alias_pairs(self, name: str) -> list[Record]:
        """See `Target`."""

        async def work(records: Records) -> list[Record]:
            account_id = await self._find_account(records) or ""
            total, _ = await records.shadows.list(account_id, name, 0, 0)
            _, kept = await records.shadows.list(account_id, name, 0, total)
            return [pair_body(pair) for pair in kept]

        return self._run(work)

    def remove_alias(self, name: str) -> None:
        """See `Target`."""

        async def work(records: Records) -> None:
            await records.aliases.remove(await self._prepare_account(records), name)

        self._run(work)

    def list_accounts(self) -> list[Record]:
        """See `Target`."""

        async def work(records: Records) -> list[Record]:
            return [account_body(one) for one in await records.accounts.list(0, await records.accounts.count())]

        return self._run(work)

    def create_account(self, name: str) -> Record:
        """See `Target`. The first account is made before, so that it is the first one."""

        async def work(records: Records) -> Record:
            await records.prepare()
            return account_body(await records.accounts.create(name))

        return self._run(work)

    def delete_account(self, account_id: str) -> None:
        """See `Target`."""

        async def work(records: Records) -> None:
            await records.prepare()
            await records.accounts.delete(account_id)

        self._ask(lambda server: server.delete_account(account_id), work)

    def list_tokens(self) -> list[Record]:
        """See `Target`."""

        async def work(records: Records) -> list[Record]:
            account_id, now = await self._find_account(records), datetime.now(UTC)
            tokens = () if account_id is None else await records.accounts.list_tokens(account_id)
            return [token_body(token, now) for token in tokens]

        return self._run(work)

    def create_token(self, name: str, scopes: list[str], expires_at: datetime | None) -> Record:
        """See `Target`."""

        async def work(records: Records) -> Record:
            account_id = await self._prepare_account(records)
            allowed = frozenset(map(Scope, scopes))
            new = await records.accounts.create_token(account_id, name, allowed, expires_at)
            return token_body(new.record, datetime.now(UTC)) | {"value": new.value}

        return self._run(work)

    def revoke_token(self, token_id: str) -> None:
        """See `Target`. A running server knows whether its settings preset the token."""

        async def work(records: Records) -> None:
            await records.accounts.revoke_token(await self._prepare_account(records), token_id)

        self._ask(lambda server: server.revoke_token(token_id), work)

    def close(self) -> None:
        """See `Target`; each piece of work opens and closes what it needs."""

    def _ask(self, remotely: Callable[[Target], None], here: Callable[[Records], Awaitable[None]]) -> None:
        with self._server() as server:
            if server is not None:
                remotely(server)
                return
        self._run(here)

    @contextmanager
    def _server(self, duration: timedelta = LENT_FOR) -> Iterator[Target | None]:
        """The server that runs on the folder, asked with a token that ends with the block; None if there is none."""
        running = find_server(DataFolder(self._settings.data_dir.absolute()).servers)
        if running is None:
            yield None
            return

        account_id, lent = self._run(lambda records: self._lend(records, duration))
        try:
            model = self._settings.model
            with closing(RemoteTarget(running.url, lent.value, account_id, model, direct=True)) as server:
                yield server
        except ServerUnreachable as error:
            raise ServerUnreachable(f"{error} (process {running.pid} runs on {self._settings.data_dir})") from error
        finally:
            self._run(lambda records: records.accounts.return_token(lent))

    async def _converse(self, work: Callable[[AsyncClient], Awaitable[T]], progress: Progress) -> T:
        settings = self._settings
        log = create_logger("warning", settings.log_format)
        async with AsyncExitStack() as stack:
            backend = await stack.enter_async_context(starting_backend(settings, progress))
            application = await stack.enter_async_context(open_application(settings, backend, log))
            account_id, token = await stack.enter_async_context(self._lent())
            transport = ASGITransport(application.api)
            client = account_client("http://gemlora", account_id, token, transport, direct=True)
            return await work(await stack.enter_async_context(client))

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[tuple[str, str]]:
        """The account and a token that ends with the block."""
        async with open_records(self._settings) as records:
            account_id, lent = await self._lend(records, CONVERSATION_FOR)
            try:
                yield account_id, lent.value
            finally:
                await records.accounts.return_token(lent)

    async def _lend(self, records: Records, duration: timedelta) -> tuple[str, NewToken]:
        account_id = await self._prepare_account(records)
        return account_id, await records.accounts.lend_token(account_id, duration=duration)

    async def _add(self, name: str, folder: Path, description: str, public: bool, progress: Progress) -> Record:
        settings = self._settings
        log = create_logger(settings.log_level, settings.log_format)
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(open_engine(settings, progress, log))
            records = await stack.enter_async_context(open_records(settings, served.engine))
            account_id = await self._prepare_account(records)
            last = await records.adapter_rows.find_base(settings.model)
            if last is not None and last.digest != served.model.base.digest:
                print(
                    f"Warning: checked with {served.model.base.name}; the server last had {last.name}", file=sys.stderr
                )
            added = await records.uploads.add(account_id, served.model, name, folder, description, public=public)
            return finetune_body(added)

    def _run(self, work: Callable[[Records], Awaitable[T]]) -> T:
        """Open the folder for one piece of work."""

        async def run() -> T:
            async with open_records(self._settings) as records:
                return await work(records)

        return asyncio.run(run())

    async def _find_account(self, records: Records) -> str | None:
        """The account's id; None in a folder that has no account yet. Makes none."""
        if self._account is not None:
            return (await records.accounts.find(self._account)).id
        first = await records.accounts.first_account()
        return None if first is None else first.id

    async def _prepare_account(self, records: Records) -> str:
        """The account's id, after making sure that there is a first one."""
        access = await records.prepare()
        return access.account_id if self._account is None else (await records.accounts.find(self._account)).id
