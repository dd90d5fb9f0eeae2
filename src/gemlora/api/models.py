"""The catalogue on the wire: `models/search` with filters and pages, `models/schema`, tasks and authors."""

from collections.abc import Mapping

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from gemlora.api.envelope import Form, envelope
from gemlora.api.run import begin_call
from gemlora.api.validation import Json
from gemlora.errors import IncompleteRequest, InvalidRequest
from gemlora.registry.models import Catalogue, Model, Task

SOURCE = 1
DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE = 1000
HIGHEST_PAGE = 1_000_000


class Models:
    """Routes that describe what is served. `schemas` maps `input` and `output` to the page's schemas."""

    def __init__(self, catalogue: Catalogue, schemas: Mapping[str, Json]) -> None:
        self._catalogue = catalogue
        self._schemas = schemas

    async def search(self, request: Request) -> Response:
        """One page of the models that meet the filters; behind the last page it is empty."""
        begin_call(request, Form.REST)
        return self.page(request.query_params)

    async def schema(self, request: Request) -> Response:
        """The input and output schemas of `model`, verbatim from the hosted model's page."""
        begin_call(request, Form.REST)
        name = request.query_params.get("model")
        if not name:
            raise IncompleteRequest("Request is missing headers or body: model")
        self._catalogue.get(name)
        return envelope(dict(self._schemas))

    async def tasks(self, request: Request) -> Response:
        """What the models are for, on a single page."""
        begin_call(request, Form.REST)
        return envelope([_task(task) for task in dict.fromkeys(model.task for model in self._catalogue.list())])

    async def authors(self, request: Request) -> Response:
        """Whose models they are, as the filter `author` takes them, on a single page."""
        begin_call(request, Form.REST)
        names = dict.fromkeys(model.author for model in self._catalogue.list())
        return envelope([{"id": name, "name": name} for name in names])

    def page(self, query: QueryParams) -> Response:
        """The page that `query` asks for."""
        number = _number(query, "page", 1, HIGHEST_PAGE)
        size = _number(query, "per_page", DEFAULT_PAGE_SIZE, LARGEST_PAGE)
        found = [model for model in self._catalogue.list() if _meets(model, query)]
        shown = found[(number - 1) * size : number * size]
        info: Json = {"count": len(shown), "page": number, "per_page": size, "total_count": len(found)}
        return envelope([_item(model) for model in shown], info=info)


def _number(query: QueryParams, key: str, default: int, highest: int) -> int:
    text = query.get(key) or str(default)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= highest):
        raise InvalidRequest(f"'{key}' must be an integer from 1 to {highest}")
    return int(text)


def _meets(model: Model, query: QueryParams) -> bool:
    search = query.get("search", "").lower()
    author = query.get("author", "").lower()
    return (
        search in f"{model.name} {model.description}".lower()
        and query.get("task", "").lower() in ("", model.task.name.lower())
        and (not author or author in model.name.lower().split("/")[:-1])
        and query.get("source", "") in ("", str(SOURCE))
    )


def _task(task: Task) -> Json:
    return {"id": task.id, "name": task.name, "description": task.description}


def _item(model: Model) -> Json:
    base = model.base
    properties = {
        "beta": "true",
        "lora": "true",
        "context_window": str(base.context_window),
        "weights": base.name,
        "quantization": base.quantization,
    }
    if model.default_adapter is not None:
        properties["default_adapter"] = model.default_adapter.name
    return {
        "id": model.id,
        "source": SOURCE,
        "name": model.name,
        "description": f"{model.description} {model.notice}",
        "task": _task(model.task),
        "tags": [],
        "properties": [{"property_id": key, "value": value} for key, value in properties.items()],
    }
