"""Adapters on the wire, where they are called finetunes: created, uploaded, listed, shown, downloaded,
renamed, deleted."""

import re
from datetime import UTC, datetime
from operator import attrgetter

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from gemlora.accounts.records import Scope
from gemlora.api.authentication import AUTHENTICATION_ERROR, caller_of
from gemlora.api.body import BodyReader
from gemlora.api.changes import changing
from gemlora.api.download import Download
from gemlora.api.envelope import envelope
from gemlora.api.members import members, string
from gemlora.api.multipart import FormReader
from gemlora.api.validation import Json, type_mismatch
from gemlora.errors import Forbidden, InvalidRequest
from gemlora.registry.adapters import CONFIG_FILE, MAX_CONFIG_BYTES, WEIGHTS_FILE, Adapters
from gemlora.registry.models import Catalogue
from gemlora.registry.records import Adapter
from gemlora.registry.uploads import Uploads
from gemlora.serving.uses import Uses

MEDIA_TYPES = {CONFIG_FILE: "application/json", WEIGHTS_FILE: "application/octet-stream"}

ORDERS = ("created_at", "modified_at", "name")
DEFAULT_LIMIT = 100
HIGHEST_LIMIT = 1000
HIGHEST_OFFSET = 1_000_000_000
WHOLE_NUMBER = re.compile(r"([0-9]{1,12})(\.0*)?")
"""The official libraries declare these as floats, so some programs send `10.0`."""


class Finetunes:
    """The routes below `/ai/finetunes`. Every finetune is looked up among those of the caller's account."""

    def __init__(
        self,
        adapters: Adapters,
        uploads: Uploads,
        uses: Uses,
        catalogue: Catalogue,
        bodies: BodyReader,
        stall_seconds: float,
        log: FilteringBoundLogger,
    ) -> None:
        self._adapters = adapters
        self._uploads = uploads
        self._uses = uses
        self._catalogue = catalogue
        self._bodies = bodies
        self._forms = FormReader(bodies)
        self._stall_seconds = stall_seconds
        self._log = log

    async def create(self, request: Request) -> Response:
        """A finetune without files."""
        caller = caller_of(request)
        wanted = await self._bodies.json(request, members)
        name = string(wanted, "name")
        model = self._catalogue.get(string(wanted, "model"))
        description = "" if wanted.get("description") is None else string(wanted, "description")
        public = False if wanted.get("public") is None else wanted["public"]
        if not isinstance(public, bool):
            raise InvalidRequest(type_mismatch(("public",), "boolean", public))
        if public and not caller.may(Scope.ADMIN):
            raise Forbidden(AUTHENTICATION_ERROR)
        with changing(self._log):
            adapter = await self._uploads.create(caller.account_id, model, name, description, public=public)
        return envelope(_finetune(adapter) | {"public": adapter.public})

    async def list(self, request: Request) -> Response:
        """All finetunes of the account, oldest first."""
        adapters = await self._adapters.list(caller_of(request).account_id)
        return envelope([_finetune(adapter) for adapter in adapters])

    async def list_public(self, request: Request) -> Response:
        """Those that the operator shares with every account."""
        query = request.query_params
        order = query.get("orderBy") or ORDERS[0]
        if order.removeprefix("-") not in ORDERS:
            raise InvalidRequest(f"'orderBy' must be one of {', '.join(ORDERS)}, with a minus in front for descending")
        limit = _number(query, "limit", DEFAULT_LIMIT, HIGHEST_LIMIT)
        offset = _number(query, "offset", 0, HIGHEST_OFFSET)
        shelf = sorted(
            await self._adapters.list_public(),
            key=attrgetter(order.removeprefix("-"), "id"),
            reverse=order.startswith("-"),
        )
        return envelope([_finetune(adapter) | {"public": True} for adapter in shelf[offset : offset + limit]])

    async def show(self, request: Request) -> Response:
        """One finetune, of the account or public, what is known of its files, and how often the account used it."""
        account_id = caller_of(request).account_id
        adapter = await self._adapters.find_visible(account_id, _named(request))
        use = self._uses.of(account_id, adapter.id)
        return envelope(finetune_body(adapter) | {"answers": use.answers, "answers_since": _moment(use.since)})

    async def rename(self, request: Request) -> Response:
        """Another name for the account's own finetune; its id and its content stay."""
        account_id = caller_of(request).account_id
        name = string(await self._bodies.json(request, members), "name")
        with changing(self._log):
            renamed = await self._uploads.rename(account_id, _named(request), name)
        return envelope(finetune_body(renamed))

    async def delete(self, request: Request) -> Response:
        """Requests in flight keep what they started with."""
        account_id = caller_of(request).account_id
        with changing(self._log):
            adapter = await self._adapters.find(account_id, _named(request))
            await self._adapters.remove(account_id, adapter.id)
        return envelope({"id": adapter.id})

    async def upload(self, request: Request) -> Response:
        """One of the two files. With the second one the finetune is checked, tried out, and ready."""
        with changing(self._log):
            adapter = await self._adapters.find(caller_of(request).account_id, _named(request))
            model = self._catalogue.get(adapter.model)
            async with self._uploads.receive() as receiver:
                limit = max(model.limits.max_bytes, MAX_CONFIG_BYTES)
                file_name = await self._forms.read(request, limit, receiver.write)
                adapter = await self._uploads.attach(adapter, file_name, receiver, model)
        asset: dict[str, Json] = {
            "finetune_id": adapter.id,
            "file_name": file_name,
            "created_at": _moment(adapter.created_at),
            "modified_at": _moment(adapter.modified_at),
        }
        return envelope(asset | _content(adapter))

    async def download(self, request: Request) -> Response:
        """One file of the account's own finetune, byte for byte as it was uploaded."""
        adapter = await self._adapters.find(caller_of(request).account_id, _named(request))
        file_name = request.path_params["file_name"]
        if file_name not in MEDIA_TYPES:
            raise InvalidRequest(f"a finetune has the files {CONFIG_FILE} and {WEIGHTS_FILE}")
        path = await self._adapters.open_file(adapter, file_name)
        etag = f'"{_blobs(adapter)[file_name]}"'
        if etag in re.split(r"\s*,\s*", request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers={"etag": etag})
        return await Download.of(path, file_name, MEDIA_TYPES[file_name], etag, self._stall_seconds, self._log)

    async def publish(self, request: Request) -> Response:
        """Put a copy of the account's finetune on the shelf, under its public name."""
        account_id = caller_of(request).account_id
        adapter = await self._adapters.find(account_id, _named(request))
        name = string(await self._bodies.json(request, members), "name")
        with changing(self._log):
            published = await self._uploads.publish(adapter, account_id, name)
        return envelope(finetune_body(published))


def finetune_body(adapter: Adapter) -> dict[str, Json]:
    """A finetune with everything that is known of it."""
    return _finetune(adapter) | {"public": adapter.public} | _content(adapter)


def _finetune(adapter: Adapter) -> dict[str, Json]:
    return {
        "id": adapter.id,
        "model": adapter.model,
        "name": adapter.name,
        "description": adapter.description,
        "created_at": _moment(adapter.created_at),
        "modified_at": _moment(adapter.modified_at),
    }


def _content(adapter: Adapter) -> dict[str, Json]:
    """What gemlora says beside the documented members."""
    files = adapter.files
    uploaded: list[Json] = [name for name, blob in _blobs(adapter).items() if blob]
    if files is None:
        return {"ready": False, "files": uploaded}
    return {
        "ready": True,
        "files": uploaded,
        "digest": files.digest,
        "size": files.size,
        "rank": files.rank,
        "modules": list(files.modules),
        "difference": files.difference,
        "warnings": list(files.warnings),
    }


def _blobs(adapter: Adapter) -> dict[str, str | None]:
    """The digest of each file; None for one that is missing."""
    files = adapter.files or adapter.pending
    return {CONFIG_FILE: files.config_blob, WEIGHTS_FILE: files.weights_blob}


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _named(request: Request) -> str:
    name: str = request.path_params["finetune"]
    return name


def _number(query: QueryParams, key: str, default: int, highest: int) -> int:
    match = WHOLE_NUMBER.fullmatch(query.get(key) or str(default))
    if match is None or int(match[1]) > highest:
        raise InvalidRequest(f"'{key}' must be an integer from 0 to {highest}")
    return int(match[1])
