"""Every route of the API with what it demands of its caller. Nothing is authorised anywhere else."""

from collections import defaultdict
from dataclasses import dataclass

from gemlora.accounts.records import Scope
from gemlora.api.accounts import AccountRoutes
from gemlora.api.aliases import AliasRoutes
from gemlora.api.authentication import Access, Authenticator, Guard
from gemlora.api.binding import Binding
from gemlora.api.description import Description
from gemlora.api.finetunes import Finetunes
from gemlora.api.guarded import GuardedRoute, Handler
from gemlora.api.health import Health
from gemlora.api.models import Models
from gemlora.api.openai import OpenAi
from gemlora.api.run import Run
from gemlora.api.segments import SegmentRoute
from gemlora.api.sign_in import SignInRoute

ACCOUNTS = "/client/v4/accounts"
ACCOUNT = f"{ACCOUNTS}/{{account_id}}"
OPENAI = f"{ACCOUNT}/ai/v1"
FINETUNES = f"{ACCOUNT}/ai/finetunes"
FINETUNE = f"{FINETUNES}/{{finetune}}"
ALIASES = f"{ACCOUNT}/ai/aliases"
ALIAS = f"{ALIASES}/{{alias}}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One line of the list of routes. `scope` None: every valid token will do."""

    methods: tuple[str, ...]
    path: str
    handler: Handler
    access: Access
    scope: Scope | None = None


def endpoints(
    run: Run,
    binding: Binding,
    openai: OpenAi,
    models: Models,
    finetunes: Finetunes,
    aliases: AliasRoutes,
    accounts: AccountRoutes,
    sign_in: SignInRoute,
    health: Health,
    description: Description,
) -> tuple[Endpoint, ...]:
    """All routes, the first that matches wins."""
    get, post, delete, look = ("GET",), ("POST",), ("DELETE",), ("GET", "HEAD")
    reading, writing = Scope.FINETUNES_READ, Scope.FINETUNES_WRITE
    return (
        Endpoint(("GET", "POST"), f"{ACCOUNT}/ai/run/proxy", binding.proxy, Access.ACCOUNT, Scope.RUN),
        Endpoint(post, f"{ACCOUNT}/ai/run/{{model:path}}", run.rest, Access.ACCOUNT, Scope.RUN),
        Endpoint(get, f"{ACCOUNT}/ai/models/search", models.search, Access.ACCOUNT, Scope.RUN),
        Endpoint(get, f"{ACCOUNT}/ai/models/schema", models.schema, Access.ACCOUNT, Scope.RUN),
        Endpoint(get, f"{ACCOUNT}/ai/tasks/search", models.tasks, Access.ACCOUNT, Scope.RUN),
        Endpoint(get, f"{ACCOUNT}/ai/authors/search", models.authors, Access.ACCOUNT, Scope.RUN),
        Endpoint(post, f"{OPENAI}/chat/completions", openai.chat, Access.ACCOUNT, Scope.RUN),
        Endpoint(post, f"{OPENAI}/completions", openai.completions, Access.ACCOUNT, Scope.RUN),
        Endpoint(get, f"{OPENAI}/models", openai.models, Access.ACCOUNT, Scope.RUN),
        Endpoint(get, f"{OPENAI}/models/{{model:path}}", openai.model, Access.ACCOUNT, Scope.RUN),
        Endpoint(get, FINETUNES, finetunes.list, Access.ACCOUNT, reading),
        Endpoint(post, FINETUNES, finetunes.create, Access.ACCOUNT, writing),
        Endpoint(get, f"{FINETUNES}/public", finetunes.list_public, Access.ACCOUNT, reading),
        Endpoint(get, FINETUNE, finetunes.show, Access.ACCOUNT, reading),
        Endpoint(("PATCH",), FINETUNE, finetunes.rename, Access.ACCOUNT, writing),
        Endpoint(delete, FINETUNE, finetunes.delete, Access.ACCOUNT, writing),
        Endpoint(post, f"{FINETUNE}/finetune-assets", finetunes.upload, Access.ACCOUNT, writing),
        Endpoint(look, f"{FINETUNE}/finetune-assets/{{file_name}}", finetunes.download, Access.ACCOUNT, reading),
        Endpoint(post, f"{FINETUNE}/publish", finetunes.publish, Access.ACCOUNT, Scope.ADMIN),
        Endpoint(get, ALIASES, aliases.list, Access.ACCOUNT, reading),
        Endpoint(post, ALIASES, aliases.create, Access.ACCOUNT, writing),
        Endpoint(get, ALIAS, aliases.show, Access.ACCOUNT, reading),
        Endpoint(("PUT",), ALIAS, aliases.change, Access.ACCOUNT, writing),
        Endpoint(delete, ALIAS, aliases.delete, Access.ACCOUNT, writing),
        Endpoint(get, f"{ALIAS}/revisions", aliases.revisions, Access.ACCOUNT, reading),
        Endpoint(get, f"{ALIAS}/shadows", aliases.shadows, Access.ACCOUNT, reading),
        Endpoint(post, f"{ALIAS}/promote", aliases.promote, Access.ACCOUNT, writing),
        Endpoint(post, f"{ALIAS}/rollback", aliases.roll_back, Access.ACCOUNT, writing),
        Endpoint(post, f"{ALIAS}/outcomes", aliases.report, Access.ACCOUNT, Scope.RUN),
        Endpoint(get, ACCOUNTS, accounts.list, Access.OPERATOR, Scope.ADMIN),
        Endpoint(post, ACCOUNTS, accounts.create, Access.OPERATOR, Scope.ADMIN),
        Endpoint(get, ACCOUNT, accounts.show, Access.OPERATOR, Scope.ADMIN),
        Endpoint(delete, ACCOUNT, accounts.delete, Access.OPERATOR, Scope.ADMIN),
        Endpoint(get, f"{ACCOUNT}/tokens", accounts.list_tokens, Access.OPERATOR, Scope.ADMIN),
        Endpoint(post, f"{ACCOUNT}/tokens", accounts.create_token, Access.OPERATOR, Scope.ADMIN),
        Endpoint(get, f"{ACCOUNT}/tokens/verify", accounts.verify, Access.ACCOUNT),
        Endpoint(delete, f"{ACCOUNT}/tokens/{{token_id}}", accounts.revoke_token, Access.OPERATOR, Scope.ADMIN),
        Endpoint(post, "/client/v4/sign-in", sign_in.exchange, Access.PUBLIC),
        Endpoint(post, "/run", binding.run, Access.TOKEN, Scope.RUN),
        Endpoint(post, "/ai-gateway/run", binding.run, Access.TOKEN, Scope.RUN),
        Endpoint(get, "/ai-api/models/search", binding.search, Access.TOKEN, Scope.RUN),
        Endpoint(look, "/livez", health.live, Access.PUBLIC),
        Endpoint(look, "/readyz", health.ready, Access.PUBLIC),
        Endpoint(look, "/startupz", health.started, Access.PUBLIC),
        Endpoint(look, "/metrics", health.metrics, Access.PUBLIC),
        Endpoint(look, "/openapi.json", description.show, Access.PUBLIC),
    )


def guarded(listed: tuple[Endpoint, ...], accounts: Authenticator) -> list[GuardedRoute]:
    """The routes with their authorisation attached."""
    allowed: dict[str, set[str]] = defaultdict(set)
    for one in listed:
        allowed[one.path].update(one.methods)
    routes: list[GuardedRoute] = []
    for one in listed:
        guard = None if one.access is Access.PUBLIC else Guard(accounts, one.access, one.scope)
        routes.append(
            GuardedRoute(one.path, one.handler, one.methods, guard)
            if ":path" in one.path
            else SegmentRoute(one.path, one.handler, one.methods, guard, allowed[one.path])
        )
    return routes
