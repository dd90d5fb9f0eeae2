"""Builds the HTTP application from finished services."""

import json
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from structlog.typing import FilteringBoundLogger

from gemlora.accounts.service import Accounts
from gemlora.accounts.sign_in import SignIn
from gemlora.aliases.service import Aliases
from gemlora.aliases.shadowing import ShadowRecords
from gemlora.api.accounts import AccountRoutes
from gemlora.api.aliases import AliasRoutes
from gemlora.api.batches import BatchAnswers, Batching
from gemlora.api.binding import Binding
from gemlora.api.body import BodyReader
from gemlora.api.boundary import Boundary
from gemlora.api.description import Description
from gemlora.api.failures import render_error, render_routing_error
from gemlora.api.finetunes import Finetunes
from gemlora.api.health import Health, Lifecycle
from gemlora.api.inputs import InputReader
from gemlora.api.limits import Limits
from gemlora.api.models import Models
from gemlora.api.openai import OpenAi
from gemlora.api.openai_inputs import Reader
from gemlora.api.routes import endpoints, guarded
from gemlora.api.run import Run
from gemlora.api.shapes import ShapeReader
from gemlora.api.sign_in import SignInRoute
from gemlora.errors import GemloraError
from gemlora.registry.adapters import Adapters
from gemlora.registry.models import Catalogue
from gemlora.registry.uploads import Uploads
from gemlora.serving.batches import Batches
from gemlora.serving.service import TextGeneration
from gemlora.serving.uses import Uses
from gemlora.telemetry.metrics import Metrics

SCHEMAS = "gemma-7b-it-lora"


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that the API calls."""

    accounts: Accounts
    sign_in: SignIn
    adapters: Adapters
    uploads: Uploads
    aliases: Aliases
    shadows: ShadowRecords
    catalogue: Catalogue
    generation: TextGeneration
    uses: Uses
    batches: Batches
    lifecycle: Lifecycle
    metrics: Metrics
    log: FilteringBoundLogger
    limits: Limits = field(default_factory=Limits)


def create_api(services: Services) -> Starlette:
    """The ASGI application."""
    schemas = {name: _schema(name) for name in ("input", "output")}
    bodies = BodyReader(services.limits.body_bytes, services.limits.body_idle_seconds)
    shapes = ShapeReader(services.limits.shapes)
    inputs = InputReader(schemas["input"], shapes)
    run = Run(
        services.generation,
        services.catalogue,
        bodies,
        inputs,
        Batching(services.batches, inputs, services.limits.batch_requests),
        services.limits.write_stall_seconds,
        services.log,
    )
    openai = OpenAi(
        services.generation,
        services.catalogue,
        bodies,
        Reader(inputs.max_tokens, inputs.temperature, shapes),
        services.limits.write_stall_seconds,
        services.log,
    )
    models = Models(services.catalogue, schemas)
    finetunes = Finetunes(
        services.adapters,
        services.uploads,
        services.uses,
        services.catalogue,
        bodies,
        services.limits.write_stall_seconds,
        services.log,
    )
    aliases = AliasRoutes(services.aliases, services.shadows, bodies, services.log)
    accounts = AccountRoutes(services.accounts, bodies, services.log)
    sign_in = SignInRoute(services.sign_in, services.limits.body_idle_seconds, services.log)
    binding = Binding(run, models, services.catalogue)
    health = Health(services.lifecycle, services.metrics)
    description = Description(partial(_document, services, schemas["input"]))
    routes = endpoints(run, binding, openai, models, finetunes, aliases, accounts, sign_in, health, description)
    app = Starlette(
        routes=guarded(routes, services.accounts),
        middleware=[Middleware(Boundary, metrics=services.metrics, log=services.log)],
        exception_handlers={GemloraError: render_error, HTTPException: render_routing_error},
    )
    app.router.redirect_slashes = False
    return app


def _document(services: Services, page: dict[str, Any]) -> dict[str, Any]:
    from gemlora.api.openapi.document import document  # only for those who ask for it

    return document(services.catalogue, page, services.limits, services.aliases.limits)


def batch_answers(services: Services) -> BatchAnswers:
    """What answers the requests of batches."""
    inputs = InputReader(_schema("input"), ShapeReader(services.limits.shapes))
    return BatchAnswers(services.generation, inputs, services.log)


def _schema(name: str) -> dict[str, Any]:
    text = (files("gemlora.api") / "schemas" / f"{SCHEMAS}.{name}.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
