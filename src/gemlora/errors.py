"""Everything that gemlora can refuse or fail at, as one tree. It knows no HTTP: `api/envelope.py` renders it.

GemloraError
├── InvalidRequest            the request's own content is wrong
│   ├── IncompleteRequest     the body is missing
│   ├── RequestTooLarge       the body exceeds the configured size
│   ├── ClientTooOld          a protocol version that is no longer spoken
│   ├── ConstraintInvalid     a schema or grammar that cannot be compiled
│   └── PromptTooLong         the prompt leaves no room in the context window
├── Unauthenticated           no token, or one that is unknown, revoked or expired
├── Forbidden                 a valid token, but not for this account or action
├── AccountNotFound
├── TokenNotFound
├── ModelNotFound
├── AdapterNotFound           unknown, foreign and deleted adapters look the same
├── AdapterIncomplete         registered, but files are missing
│   └── AdapterNotReady       … that are to be downloaded or published
├── AdapterInvalid            would not take full effect on the served base
├── AdapterExists             the account already uses that name, for an adapter or an alias
├── TooManyAdapters           the account has as many as it may
├── StillNeeded               must not be deleted or revoked as things are
├── AliasNotFound             unknown and foreign aliases look the same
├── TooManyAliases            the account has as many as it may
├── OutcomesMeasured          outcomes of a test that the server measures by itself are not reported
├── BatchNotFound             unknown, foreign and expired batches look the same
├── OutOfCapacity             try again later
├── ConstraintUnmet           the answer could not be completed as its schema or grammar demands
├── RequestTimedOut           the client sends too slowly
├── RequestAborted            the client or an operator ended it
├── EngineFailed              the engine could not finish this one request
├── WeightsInvalid            a checkpoint that cannot be served
├── SettingsInvalid
├── TrainingDataInvalid       examples that cannot be learnt
├── TrainingRefused           a training that cannot start, or go on where it stopped
├── EvaluationInvalid         cases, a scorer or judgements that an evaluation cannot use
├── ServerRefused             the server that a command asked said no
│   └── ServerUnreachable     … or did not answer
└── StorageFailed             the database or object store did not do what was asked
    └── ChangeFailed          … for a client that wanted to change something
"""


class GemloraError(Exception):
    """Base of all errors that carry a text meant for the user."""


class InvalidRequest(GemloraError):
    """The request's content is wrong; the text says which field and what was expected."""


class IncompleteRequest(InvalidRequest):
    """A body or header that the route needs is missing."""


class RequestTooLarge(InvalidRequest):
    """The body is larger than the configured limit."""


class ClientTooOld(InvalidRequest):
    """The client speaks an old version of the protocol."""


class ConstraintInvalid(InvalidRequest):
    """A schema or grammar that answers cannot be held to; the text says why."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the context window."""

    def __init__(self, requested_tokens: int, context_window: int) -> None:
        super().__init__(
            f"The estimated number of input and maximum output tokens ({requested_tokens}) "
            f"exceeded this model context window limit ({context_window})"
        )
        self.requested_tokens = requested_tokens
        self.context_window = context_window


class Unauthenticated(GemloraError):
    """No token was given, or it is unknown, revoked or expired."""


class Forbidden(GemloraError):
    """The token is valid but does not allow this account or action."""


class AccountNotFound(GemloraError):
    """No such account."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"Account {account_id} not found")


class TokenNotFound(GemloraError):
    """The account has no such token."""

    def __init__(self, token_id: str) -> None:
        super().__init__(f"Token {token_id} not found")


class ModelNotFound(GemloraError):
    """No such model in the catalogue."""

    def __init__(self, model: str) -> None:
        super().__init__(f"No such model {model} or task")
        self.model = model


class AdapterNotFound(GemloraError):
    """No such adapter for this account."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Adapter {name} not found")
        self.name = name


class AdapterIncomplete(GemloraError):
    """The adapter is registered but its files are missing."""


class AdapterNotReady(AdapterIncomplete):
    """What is to be downloaded or published was not uploaded yet."""


class AdapterInvalid(GemloraError):
    """The adapter would not take full effect; the text names the tensor or key and what was expected."""


class AdapterExists(GemloraError):
    """The account already has an adapter or an alias with that name."""


class TooManyAdapters(GemloraError):
    """The account has as many adapters as it may."""


class StillNeeded(GemloraError):
    """An account, token or adapter that must not go as things are; the text says why."""


class AliasNotFound(GemloraError):
    """The account has no such alias."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Alias {name} not found")


class TooManyAliases(GemloraError):
    """The account has as many aliases as it may."""


class OutcomesMeasured(GemloraError):
    """A client reported an outcome to a test whose metric the server measures by itself."""


class BatchNotFound(GemloraError):
    """The account has no such batch."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"Batch {batch_id} not found")


class OutOfCapacity(GemloraError):
    """No room now; the same request may succeed later."""


class ConstraintUnmet(GemloraError):
    """The answer could not be completed as its schema or grammar demands."""


class RequestTimedOut(GemloraError):
    """The client took too long to send its request."""


class RequestAborted(GemloraError):
    """The request was ended before its answer was complete."""


class EngineFailed(GemloraError):
    """The engine could not finish the request."""


class WeightsInvalid(GemloraError):
    """The checkpoint is damaged, of another family, or of a type that cannot be served."""


class SettingsInvalid(GemloraError):
    """One or more settings are wrong; the text lists all of them."""


class TrainingDataInvalid(GemloraError):
    """Examples are wrong; the text lists the lines."""


class TrainingRefused(GemloraError):
    """A training cannot start, or cannot go on from what the folder holds."""


class EvaluationInvalid(GemloraError):
    """Cases, a scorer or judgements that an evaluation cannot use; the text says where and why."""


class ServerRefused(GemloraError):
    """The server that a command asked refused; `code` is the wire's."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class ServerUnreachable(ServerRefused):
    """The server that a command asked gave no answer, or one of another kind of server."""


class StorageFailed(GemloraError):
    """The database or object store did not do what was asked."""


class ChangeFailed(StorageFailed):
    """A change that a client asked for could not be stored; the same request may succeed later."""
