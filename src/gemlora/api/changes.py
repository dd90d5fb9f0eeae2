"""Changes that a client asks for: what storage fails is an answer of its own, since only the whole can be repeated."""

from collections.abc import Iterator
from contextlib import contextmanager

from structlog.typing import FilteringBoundLogger

from gemlora.errors import ChangeFailed, StorageFailed


@contextmanager
def changing(log: FilteringBoundLogger) -> Iterator[None]:
    """Turn `StorageFailed` into `ChangeFailed`, with its cause in the log."""
    try:
        yield
    except StorageFailed as error:
        cause = error.__cause__
        log.error("change failed", cause=type(cause).__name__, errno=getattr(cause, "errno", None), exc_info=error)
        raise ChangeFailed(str(error)) from error
