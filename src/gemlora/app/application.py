"""Services, storage and an HTTP application around an engine. A straight line: whatever fails stops the start."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from socket import socket

import msgspec
from starlette.applications import Starlette
from structlog.typing import FilteringBoundLogger

from gemlora.accounts.repository import AccountRepository
from gemlora.accounts.service import Accounts, FirstAccess
from gemlora.accounts.sign_in import SignIn
from gemlora.aliases.pairs import PairRepository
from gemlora.aliases.repository import AliasRepository
from gemlora.aliases.service import Aliases, AliasLimits
from gemlora.aliases.shadowing import KeepingRules, ShadowRecords
from gemlora.api.application import Services, batch_answers, create_api
from gemlora.api.guarded import GuardedRoute
from gemlora.api.health import Lifecycle
from gemlora.api.limits import Limits
from gemlora.api.server import Config, Server
from gemlora.api.shapes import ShapeLimits
from gemlora.app.backend import StartingBackend, starting_backend
from gemlora.batches.repository import BatchRepository
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import EngineFailed
from gemlora.playground.page import Playground
from gemlora.registry.adapters import Adapters
from gemlora.registry.engine import AdapterEngine
from gemlora.registry.holdings import AdapterHoldings
from gemlora.registry.models import AdapterLimits, Base, Catalogue, DefaultAdapter, Model, served_model
from gemlora.registry.names import BARE_BASE
from gemlora.registry.records import ReadyAdapter
from gemlora.registry.repository import AdapterRepository
from gemlora.registry.uploads import Uploads
from gemlora.serving.adapters import ServingEngine
from gemlora.serving.batches import Batches, BatchRules
from gemlora.serving.choosing import Choosing
from gemlora.serving.codec import GemmaCodec
from gemlora.serving.schemas import SchemaLimits
from gemlora.serving.service import TextGeneration
from gemlora.serving.shadows import ShadowRules, Shadows
from gemlora.serving.uses import Uses
from gemlora.settings import Settings
from gemlora.starter.shelf import StarterShelf
from gemlora.starter.shipped import shipped_adapters
from gemlora.storage.data import DataFolder
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects
from gemlora.storage.objects import Objects
from gemlora.storage.servers import notice
from gemlora.telemetry.logs import adopt_standard_logging, create_logger
from gemlora.telemetry.metrics import Metrics

LOCAL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104
"""Where a server that listens on every interface is reached from its own machine."""


@dataclass(frozen=True, slots=True)
class Application:
    """A started application, before it listens."""

    api: Starlette
    lifecycle: Lifecycle
    access: FirstAccess
    model: Model
    sign_in: SignIn


@dataclass(frozen=True, slots=True)
class Announcement:
    """What whoever started the server wants to know once it answers. `url` has no slash at its end."""

    url: str
    access: FirstAccess
    model: Model
    sign_in_code: str | None = None
    """Signs the playground in, once; None where others could read or use the link."""


@dataclass(frozen=True, slots=True)
class Records:
    """What a data folder holds, for the server and for the command line."""

    prepare: Callable[[], Awaitable[FirstAccess]]
    """Makes sure that there is a first account with a token."""
    accounts: Accounts
    adapters: Adapters
    uploads: Uploads
    aliases: Aliases
    shadows: ShadowRecords
    adapter_rows: AdapterRepository
    batch_rows: BatchRepository


@dataclass(frozen=True, slots=True)
class Served:
    """A started engine, as the registry sees it, and the model that it serves."""

    engine: AdapterEngine
    model: Model


class NoEngine:
    """Stands for the engine in commands that only look at adapters or remove them."""

    async def probe(self, adapter: ReadyAdapter) -> float:
        """There is nothing to try the adapter out with."""
        raise EngineFailed(f"No engine runs that could try out the adapter {adapter.name}")

    async def unload(self, digest: str) -> None:
        """Nothing is loaded."""


async def run(
    settings: Settings, backend: StartingBackend, listener: socket, announce: Callable[[Announcement], None]
) -> None:
    """Listen on the bound socket as soon as everything is ready, and serve until a signal ends it."""
    log = create_logger(settings.log_level, settings.log_format)
    adopt_standard_logging(log, settings.log_level)
    async with open_application(settings, backend, log) as application:
        host, port = listener.getsockname()[:2]
        shown = LOCAL_ADDRESSES.get(host, f"[{host}]" if ":" in host else host)
        access = application.access
        config = Config(application.api, settings.drain_seconds, settings.header_seconds)
        gc.freeze()  # what the start left stays: looking through it ever again would hold up every stream
        with notice(DataFolder(settings.data_dir.absolute()).servers) as publish:

            def listening() -> None:
                url = f"http://{shown}:{port}"
                code = application.sign_in.offer(access.account_id) if is_loopback(host) else None
                publish(url)
                announce(Announcement(url, access, application.model, code))

            await Server(config, application.lifecycle, listening).serve(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    return ip_address(host.partition("%")[0]).is_loopback


@asynccontextmanager
async def open_application(
    settings: Settings, backend: StartingBackend, log: FilteringBoundLogger
) -> AsyncIterator[Application]:
    """Connect everything and wait for the engine; disconnect it in the reverse order at the end of the block."""
    engine = backend.engine
    async with AsyncExitStack() as stack:
        records = await stack.enter_async_context(open_records(settings, ServingEngine(engine, log), log))
        access = await records.prepare()
        tokenizer = await backend.ready()
        model = model_of(settings, Base.of(engine.facts))
        await records.adapter_rows.record_base(model.name, model.base, datetime.now(UTC))
        shelf = StarterShelf(records.adapter_rows, records.uploads, shipped_adapters(), log)
        await shelf.stock(access.account_id, model)
        model = replace(model, default_adapter=await _default_adapter(settings, model, shelf))
        collecting = asyncio.create_task(_collect(records.adapters, settings.collect_seconds, log))
        stack.push_async_callback(_end, collecting)
        metrics = Metrics()
        metrics.watch_engine(lambda: msgspec.structs.asdict(engine.stats()))
        catalogue = Catalogue([model])
        choosing = Choosing(records.adapters, records.aliases)
        codec = GemmaCodec(tokenizer)
        shadows = Shadows(
            engine,
            codec.decoder,
            records.adapters,
            records.shadows,
            ShadowRules(settings.shadow_concurrency),
            metrics,
            log,
        )
        lifecycle = Lifecycle()
        sign_in = SignIn(records.accounts, settings.sign_in_seconds)
        uses = Uses(datetime.now(UTC))
        services = Services(
            accounts=records.accounts,
            sign_in=sign_in,
            adapters=records.adapters,
            uploads=records.uploads,
            aliases=records.aliases,
            shadows=records.shadows,
            catalogue=catalogue,
            generation=TextGeneration(catalogue, choosing, engine, codec, shadows, uses, metrics, log),
            uses=uses,
            batches=Batches(records.batch_rows, _batch_rules(settings), log),
            lifecycle=lifecycle,
            metrics=metrics,
            log=log,
            limits=_limits(settings),
        )
        shadowing = asyncio.create_task(shadows.run())
        stack.push_async_callback(_end, shadowing)
        answering = asyncio.create_task(services.batches.run(batch_answers(services)))
        stack.push_async_callback(_end, answering)
        api = create_api(services)
        playground = Playground(catalogue)
        for path, handler in (("/", playground.page), ("/playground/{name}", playground.file)):
            api.routes.append(GuardedRoute(path, handler, ("GET", "HEAD"), guard=None))
        yield Application(api, lifecycle, access, model, sign_in)


@asynccontextmanager
async def open_records(
    settings: Settings, engine: AdapterEngine | None = None, log: FilteringBoundLogger | None = None
) -> AsyncIterator[Records]:
    """Open the data folder. Without an engine no adapters can be made; without a log only warnings are told."""
    engine = engine or NoEngine()
    log = log or create_logger("warning", settings.log_format)
    data = DataFolder.open(settings.data_dir)
    database = await _open_database(settings, data)
    try:
        rows, objects = AdapterRepository(database), _objects(settings, data)
        adapters = Adapters(rows, objects, engine, settings.blob_grace_seconds)
        accounts = Accounts(AccountRepository(database), data.first_token, AdapterHoldings(adapters))
        token = settings.api_token.get_secret_value() if settings.api_token else None
        prepare = partial(accounts.prepare, settings.account_id, token)
        uploads = Uploads(rows, objects, engine)
        alias_rows = AliasRepository(database)
        aliases = Aliases(alias_rows, AliasLimits(settings.max_aliases, settings.max_alias_versions), log)
        keeping = KeepingRules(settings.max_shadow_pairs, settings.shadow_text_seconds)
        shadows = ShadowRecords(alias_rows, PairRepository(database), keeping, log)
        yield Records(prepare, accounts, adapters, uploads, aliases, shadows, rows, BatchRepository(database))
    finally:
        await database.close()


async def _open_database(settings: Settings, data: DataFolder) -> Database:
    if settings.database_url is None:
        return await Database.open(data.database)
    return await Database.open_postgres(settings.database_url.get_secret_value())


def _objects(settings: Settings, data: DataFolder) -> Objects:
    if not settings.object_store:
        return LocalObjects(data.objects)
    # Only here: its library takes a moment to load.
    from gemlora.storage.object_cache import ObjectCache
    from gemlora.storage.s3_objects import S3Objects, open_bucket

    bucket, _, prefix = settings.object_store.removeprefix("s3://").partition("/")
    store = open_bucket(
        bucket,
        prefix,
        settings.object_store_endpoint,
        settings.object_store_region,
        settings.object_store_access_key.get_secret_value() if settings.object_store_access_key else None,
        settings.object_store_secret_key.get_secret_value() if settings.object_store_secret_key else None,
    )
    return S3Objects(store, ObjectCache(settings.cache_dir / "objects", settings.object_cache_bytes))


@asynccontextmanager
async def open_engine(settings: Settings, progress: Progress, log: FilteringBoundLogger) -> AsyncIterator[Served]:
    """Start an engine without a server, for the probes of a command; stop it at the end of the block."""
    async with starting_backend(settings, progress) as backend:
        await backend.ready()
        engine = backend.engine
        yield Served(ServingEngine(engine, log), model_of(settings, Base.of(engine.facts)))


async def _collect(adapters: Adapters, seconds: float, log: FilteringBoundLogger) -> None:
    """Delete unused blobs now and every so many seconds; what fails is tried again the next time."""
    while True:
        try:
            discarded = await adapters.discard_unused()
        except Exception as error:
            log.error("unused blobs not deleted", cause=type(error.__cause__ or error).__name__, exc_info=error)
        else:
            if discarded:
                log.info("unused blobs deleted", blobs=discarded)
        await asyncio.sleep(seconds)


def _batch_rules(settings: Settings) -> BatchRules:
    return BatchRules(settings.max_batches, settings.batch_concurrency, settings.batch_keep_seconds)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


def _limits(settings: Settings) -> Limits:
    schemas = SchemaLimits(
        size=settings.max_schema_bytes,
        depth=settings.max_schema_depth,
        properties=settings.max_schema_properties,
        values=settings.max_schema_values,
        items=settings.max_schema_items,
        length=settings.max_schema_length,
    )
    return Limits(
        settings.max_body_bytes,
        settings.body_idle_seconds,
        settings.write_stall_seconds,
        settings.max_batch_requests,
        ShapeLimits(schemas, settings.max_tools, settings.max_tool_calls),
    )


async def _default_adapter(settings: Settings, model: Model, shelf: StarterShelf) -> DefaultAdapter | None:
    if settings.default_adapter is None:
        return await shelf.default_adapter(model)
    return None if settings.default_adapter in ("", BARE_BASE) else DefaultAdapter(settings.default_adapter)


def model_of(settings: Settings, base: Base) -> Model:
    """What the settings call the base that is served."""
    weights = "fake" if settings.engine == "fake" else settings.weights
    limits = AdapterLimits(settings.max_adapter_rank, settings.max_adapter_bytes, settings.max_adapters or None)
    return served_model(settings.model, weights, base, limits)
