"""The routes of finetunes, accounts and tokens in the document."""

from gemlora.accounts.records import Scope
from gemlora.api import accounts as account_routes
from gemlora.api import finetunes as finetune_routes
from gemlora.api.openapi.failures import EVERYWHERE, READING, WITH_BODY, Errors
from gemlora.api.openapi.operation import Operation, answer, header, path, query, whole_number
from gemlora.api.openapi.shapes import (
    BOOLEAN,
    COUNT,
    MOMENT,
    TEXT,
    UUID,
    Schema,
    enveloped,
    json_content,
    members,
    one_of,
    or_null,
    ref,
    sequence,
)
from gemlora.errors import (
    AccountNotFound,
    AdapterExists,
    AdapterInvalid,
    AdapterNotFound,
    AdapterNotReady,
    ChangeFailed,
    ModelNotFound,
    StillNeeded,
    TokenNotFound,
    TooManyAdapters,
)
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.registry.names import BARE_BASE, MAX_DESCRIPTION_LENGTH, MAX_NAME_LENGTH, PUBLIC_PREFIX

NAME: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_NAME_LENGTH,
    "format": "printable-name",
    "description": "Printable, without blanks at its ends, not like an id.",
}
OWN_NAME: Schema = {**NAME, "format": "own-name", "description": f"{NAME['description']} Free in the account."}
PUBLIC_NAME: Schema = {
    **NAME,
    "format": "public-name",
    "pattern": f"^{PUBLIC_PREFIX}",
    "not": {"const": BARE_BASE},
    "description": f"{NAME['description']} Free on the shelf. `{BARE_BASE}` is never free.",
}
NEW_NAME: Schema = {"anyOf": [OWN_NAME, PUBLIC_NAME], "description": "As the finetune is, own or public."}
HEX: Schema = {"type": "string", "pattern": "^[0-9a-f]+$"}
CHANGING: Errors = frozenset({ChangeFailed})

FINETUNE = path("finetune", {"type": "string", "minLength": 1}, "Its id or name.")
FILE_NAME = path("file_name", one_of(CONFIG_FILE, WEIGHTS_FILE), "One of its two files.")
TOKEN_ID = path("token_id", {"type": "string", "minLength": 1}, "The token's id.")
PAGE = (
    query("page", whole_number(1, account_routes.HIGHEST_PAGE, 1), "Which page."),
    query(
        "per_page",
        whole_number(1, account_routes.LARGEST_PAGE, account_routes.DEFAULT_PAGE_SIZE),
        "How many on a page.",
    ),
)
SHELF = (
    query("limit", whole_number(0, finetune_routes.HIGHEST_LIMIT, finetune_routes.DEFAULT_LIMIT), "How many."),
    query("offset", whole_number(0, finetune_routes.HIGHEST_OFFSET, 0), "How many to leave out."),
    query(
        "orderBy",
        one_of("", *(f"{sign}{order}" for sign in ("", "-") for order in finetune_routes.ORDERS)),
        "What to sort by, with a minus in front for descending.",
    ),
)

_FINETUNE: dict[str, Schema] = {
    "id": UUID, "model": TEXT, "name": TEXT, "description": TEXT, "created_at": MOMENT, "modified_at": MOMENT,
}  # fmt: skip
_FILES = sequence(one_of(CONFIG_FILE, WEIGHTS_FILE))
_CONTENT_OPTIONAL: dict[str, Schema] = {
    "digest": HEX, "size": COUNT, "rank": COUNT, "modules": sequence(TEXT), "difference": {"type": "number"},
    "warnings": sequence(TEXT),
}  # fmt: skip
_CONTENT: dict[str, Schema] = {"ready": BOOLEAN, "files": _FILES}
_USE: dict[str, Schema] = {
    "answers": {**COUNT, "description": "Answers that the account got from it, by this server, since then."},
    "answers_since": MOMENT,
}
_ID = members({"id": TEXT})
_ACCOUNT = members({"id": HEX, "name": TEXT, "type": {"const": account_routes.ACCOUNT_TYPE}, "created_on": MOMENT})
_TOKEN: dict[str, Schema] = {
    "id": TEXT, "name": TEXT, "status": one_of("active", "expired"), "issued_on": MOMENT,
    "scopes": sequence(one_of(*Scope)),
}  # fmt: skip
_EXPIRY: dict[str, Schema] = {"expires_on": MOMENT}
INFO = members(dict.fromkeys(("page", "per_page", "count", "total_count", "total_pages"), COUNT))

SCHEMAS: dict[str, Schema] = {
    "Finetune": members(_FINETUNE, {"public": BOOLEAN}),
    "FinetuneDetails": members({**_FINETUNE, "public": BOOLEAN, **_CONTENT}, _CONTENT_OPTIONAL),
    "UsedFinetune": members({**_FINETUNE, "public": BOOLEAN, **_CONTENT, **_USE}, _CONTENT_OPTIONAL),
    "Asset": members(
        {"finetune_id": UUID, "file_name": TEXT, "created_at": MOMENT, "modified_at": MOMENT, **_CONTENT},
        _CONTENT_OPTIONAL,
    ),
    "Account": _ACCOUNT,
    "Token": members(_TOKEN, _EXPIRY),
}


def finetune_body(model: Schema) -> Schema:
    """What creates a finetune."""
    described = {"type": "string", "maxLength": MAX_DESCRIPTION_LENGTH, "pattern": "^[^\\x00]*$"}
    own: Schema = {"enum": [None, False]}
    return {
        "anyOf": [
            members({"model": model, "name": OWN_NAME}, {"description": or_null(described), "public": own}),
            members(
                {"model": model, "name": PUBLIC_NAME, "public": {"const": True}}, {"description": or_null(described)}
            ),
        ]
    }


def _form() -> Schema:
    """The form of an upload. Its parts are these two, in any order."""
    forms = [
        {
            **members({
                "file_name": {"const": name},
                "file": {"type": "string", "format": f"adapter-{kind}", "contentMediaType": media_type},
            }),
            "additionalProperties": False,
        }
        for kind, (name, media_type) in zip(("config", "weights"), finetune_routes.MEDIA_TYPES.items(), strict=True)
    ]  # fmt: skip
    return {"multipart/form-data": {"schema": {"oneOf": forms}}}


def finetunes(model: Schema) -> dict[str, dict[str, Operation]]:
    """By path below `/ai/finetunes`, and method."""
    read, write, found = Scope.FINETUNES_READ, Scope.FINETUNES_WRITE, frozenset({AdapterNotFound})
    creating = WITH_BODY | CHANGING | {ModelNotFound, AdapterExists, TooManyAdapters}
    uploading = WITH_BODY | CHANGING | found | {ModelNotFound, AdapterInvalid}
    files: Schema = {
        "application/json": {"schema": {}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    etag = header("if-none-match", TEXT, "ETags that need no answer.")
    download = Operation(
        "Download one file of an own finetune",
        {"200": {"description": "The file.", "content": files}, "304": {"description": "The client has it."}},
        READING | found | {AdapterNotReady, AdapterInvalid},
        parameters=(FINETUNE, FILE_NAME, etag), scope=read,
    )  # fmt: skip
    return {
        "": {
            "get": Operation("The account's finetunes", answer(enveloped(sequence(ref("Finetune")))), scope=read),
            "post": Operation(
                "Create a finetune without files", answer(enveloped(ref("Finetune"))), creating,
                body=json_content(finetune_body(model)), scope=write,
            ),
        },
        "/public": {
            "get": Operation(
                "The finetunes on the shelf", answer(enveloped(sequence(ref("Finetune")))), READING,
                parameters=SHELF, scope=read,
            )
        },
        "/{finetune}": {
            "get": Operation(
                "One finetune, of the account or public, and its use", answer(enveloped(ref("UsedFinetune"))), found,
                parameters=(FINETUNE,), scope=read,
            ),
            "patch": Operation(
                "Rename an own finetune", answer(enveloped(ref("Finetune"))),
                WITH_BODY | CHANGING | found | {AdapterExists},
                body=json_content(members({"name": NEW_NAME})), parameters=(FINETUNE,), scope=write,
            ),
            "delete": Operation(
                "Delete a finetune", answer(enveloped(_ID)), found | CHANGING | {StillNeeded}, parameters=(FINETUNE,),
                scope=write,
            ),
        },
        "/{finetune}/finetune-assets": {
            "post": Operation(
                "Upload one of the two files", answer(enveloped(ref("Asset"))), uploading,
                body=_form(), parameters=(FINETUNE,), scope=write,
            )
        },
        "/{finetune}/finetune-assets/{file_name}": {"get": download, "head": download},
        "/{finetune}/publish": {
            "post": Operation(
                "Put a copy on the shelf", answer(enveloped(ref("FinetuneDetails"))),
                WITH_BODY | CHANGING | found | {AdapterNotReady, AdapterInvalid, AdapterExists},
                body=json_content(members({"name": PUBLIC_NAME})), parameters=(FINETUNE,), scope=Scope.ADMIN,
            )
        },
    }  # fmt: skip


def _token_body() -> Schema:
    moment = {"type": "string", "format": "future-date-time", "description": "In the future, with its offset."}
    empty: Schema = {"enum": [None, [], {}], "description": "Not supported."}
    refused = dict.fromkeys(account_routes.UNSUPPORTED, empty)
    scopes = sequence(one_of(*Scope), minItems=1)
    return members({"name": NAME, "scopes": scopes}, {"expires_on": or_null(moment), **refused})


def sign_in() -> Operation:
    """A token for the code of the printed link, which is the proof."""
    lent = members({**_TOKEN, **_EXPIRY, "account_id": HEX, "token": TEXT})
    wrong = {
        "description": "10000: a code that is wrong, used or too old",
        "content": json_content(ref("GatewayError")),
    }
    return Operation(
        "A token for a one-time code", answer(enveloped(lent)) | {"401": wrong}, EVERYWHERE | WITH_BODY | CHANGING,
        body=json_content(members({"code": TEXT})),
    )  # fmt: skip


def accounts() -> dict[str, dict[str, Operation]]:
    """By path below `/accounts/{account_id}`, and method; `None` stands for the accounts themselves."""
    found = frozenset({AccountNotFound})
    created = members({**_TOKEN, "value": TEXT}, _EXPIRY)
    verified = members({**_TOKEN, "account_id": HEX}, _EXPIRY)
    standard: Schema = {"const": account_routes.ACCOUNT_TYPE}
    operators: dict[str, dict[str, Operation]] = {
        "/accounts": {
            "get": Operation(
                "All accounts", answer(enveloped(sequence(ref("Account")), INFO)), READING, parameters=PAGE
            ),
            "post": Operation(
                "Create an account", answer(enveloped(ref("Account"))), WITH_BODY | CHANGING,
                body=json_content(members({"name": NAME}, {"type": standard})),
            ),
        },
        "/accounts/{account_id}": {
            "get": Operation("One account", answer(enveloped(ref("Account"))), found),
            "delete": Operation(
                "Delete an account with its tokens and finetunes", answer(enveloped(_ID)),
                found | CHANGING | {StillNeeded},
            ),
        },
        "/accounts/{account_id}/tokens": {
            "get": Operation(
                "The account's tokens", answer(enveloped(sequence(ref("Token")), INFO)), READING | found,
                parameters=PAGE,
            ),
            "post": Operation(
                "Create a token", answer(enveloped(created)), WITH_BODY | found | CHANGING,
                body=json_content(_token_body()),
            ),
        },
        "/accounts/{account_id}/tokens/{token_id}": {
            "delete": Operation(
                "Revoke a token", answer(enveloped(_ID)), found | CHANGING | {TokenNotFound, StillNeeded},
                parameters=(TOKEN_ID,),
            )
        },
    }  # fmt: skip
    granted = {
        place: {method: one.granted(Scope.ADMIN) for method, one in methods.items()}
        for place, methods in operators.items()
    }
    verify = Operation("The presented token", answer(enveloped(verified)))
    return granted | {"/accounts/{account_id}/tokens/verify": {"get": verify}}
