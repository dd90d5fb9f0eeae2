"""The application's parts with fakes where others have databases and weights."""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.api.bodies import SCHEMA

from gemlora.accounts.records import Account, Caller, Scope, Token
from gemlora.accounts.sign_in import SignIn
from gemlora.aliases.records import Alias
from gemlora.aliases.service import AliasLimits
from gemlora.aliases.shadows import Pair, Place
from gemlora.api.application import Services, create_api
from gemlora.api.health import Lifecycle, Phase
from gemlora.api.limits import Limits
from gemlora.api.openapi.document import document
from gemlora.engines.fake import FakeEngine
from gemlora.errors import AdapterIncomplete, AdapterNotFound, AliasNotFound, GemloraError, Unauthenticated
from gemlora.registry.models import AdapterLimits, Base, Catalogue, DefaultAdapter, Model, served_model
from gemlora.registry.records import ReadyAdapter
from gemlora.serving.byte_vocabulary import byte_vocabulary
from gemlora.serving.choosing import Choosing
from gemlora.serving.codec import GemmaCodec
from gemlora.serving.service import TextGeneration
from gemlora.serving.shadows import ShadowRules, Shadows
from gemlora.serving.tokenizer import Tokenizer
from gemlora.serving.uses import Uses
from gemlora.telemetry.logs import create_logger
from gemlora.telemetry.metrics import Metrics

ALICE = "a" * 32
BOB = "b" * 32
TOKEN = "alice-token"
BOBS_TOKEN = "bob-token"
READ_ONLY_TOKEN = "alice-read-only"
MODEL = "@cf/google/gemma-7b-it-lora"
RUN = f"/client/v4/accounts/{ALICE}/ai/run/{MODEL}"
ADAPTER_ID = "11111111-2222-3333-4444-555555555555"

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeAccounts:
    """Three tokens of two accounts; `failure` is raised instead of an answer."""

    def __init__(self) -> None:
        every = frozenset(Scope)
        self.callers = {
            TOKEN: _caller(ALICE, every),
            BOBS_TOKEN: _caller(BOB, every),
            READ_ONLY_TOKEN: _caller(ALICE, frozenset({Scope.FINETUNES_READ})),
        }
        self.failure: Exception | None = None

    async def authenticate(self, token: str | None) -> Caller:
        if self.failure is not None:
            raise self.failure
        if token not in self.callers:
            raise Unauthenticated("Authentication error")
        return self.callers[token]


class FakeAdapters:
    """Alice has the adapter `pirate`, and `half` without files."""

    def __init__(self) -> None:
        self.failure: GemloraError | None = None
        pirate = ReadyAdapter(ADAPTER_ID, "pirate", "ab" * 32, Path("/manifest"), Path("/weights"), "ef" * 32)
        odd = ReadyAdapter("odd-id", "Käpt’n\n", "cd" * 32, Path("/manifest"), Path("/weights"), "ef" * 32)
        self.ready = {"pirate": pirate, ADAPTER_ID: pirate, "odd": odd}

    async def resolve(self, account_id: str, name_or_id: str, model: Model) -> ReadyAdapter:
        if self.failure is not None:
            raise self.failure
        if name_or_id == "half":
            raise AdapterIncomplete("Finetune half is missing required files")
        if account_id != ALICE or name_or_id not in self.ready:
            raise AdapterNotFound(name_or_id)
        return self.ready[name_or_id]


class KeptShadows:
    """What shadows found, for a test to look into."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.dropped: Counter[Place] = Counter()
        self.keeps_texts = True
        self.failure: Exception | None = None

    async def save(self, pairs: Sequence[Pair], dropped: Mapping[Place, int]) -> None:
        if self.failure is not None:
            raise self.failure
        self.pairs += pairs
        self.dropped.update(dropped)

    async def forget_texts(self) -> None:
        pass


class NoAliases:
    """No account has an alias."""

    limits = AliasLimits()

    async def find(self, account_id: str, name: str) -> Alias:
        raise AliasNotFound(name)


class Parts:
    """One application and the fakes that a test looks into."""

    def __init__(
        self,
        engine: FakeEngine,
        limits: Limits | None = None,
        default_adapter: DefaultAdapter | None = None,
        *,
        accounts: Any = None,
        adapters: Any = None,
        uploads: Any = None,
        batches: Any = None,
        aliases: Any = None,
        shadows: Any = None,
        shadow_rules: ShadowRules | None = None,
        adapter_limits: AdapterLimits | None = None,
    ) -> None:
        self.engine = engine
        self.accounts = accounts or FakeAccounts()
        self.adapters = adapters or FakeAdapters()
        self.sign_in = SignIn(self.accounts, 900)
        self.metrics = Metrics()
        self.lifecycle = Lifecycle()
        self.lifecycle.phase = Phase.READY
        self.log_stream = io.StringIO()
        log = create_logger("debug", "json", self.log_stream)
        model = served_model(MODEL, "starter", Base.of(engine.facts), adapter_limits or AdapterLimits())
        model = replace(model, default_adapter=default_adapter)
        catalogue = Catalogue([model])
        codec = GemmaCodec(Tokenizer(byte_vocabulary()))
        self.aliases = aliases or NoAliases()
        choosing = Choosing(self.adapters, self.aliases)
        self.uses = Uses(START)
        self.kept_shadows = shadows or KeptShadows()
        self.shadows = Shadows(
            engine,
            codec.decoder,
            self.adapters,
            self.kept_shadows,
            shadow_rules or ShadowRules(pause_seconds=0),
            self.metrics,
            log,
        )
        generation = TextGeneration(catalogue, choosing, engine, codec, self.shadows, self.uses, self.metrics, log)
        self.services = Services(
            accounts=self.accounts,
            sign_in=self.sign_in,
            adapters=self.adapters,
            uploads=uploads,
            aliases=self.aliases,
            shadows=self.kept_shadows,
            catalogue=catalogue,
            generation=generation,
            uses=self.uses,
            batches=batches,
            lifecycle=self.lifecycle,
            metrics=self.metrics,
            log=log,
            limits=limits or Limits(),
        )
        self.api = create_api(self.services)

    @property
    def document(self) -> dict[str, Any]:
        """What `/openapi.json` shows."""
        return document(self.services.catalogue, SCHEMA, self.services.limits, self.services.aliases.limits)

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in self.log_stream.getvalue().splitlines()]


def _caller(account_id: str, scopes: frozenset[Scope]) -> Caller:
    token = Token("token-id", account_id, "test", scopes, START)
    return Caller(Account(account_id, "test", START), token)
