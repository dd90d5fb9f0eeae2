"""Structured logs: JSON lines, or coloured lines for people. Never content: no prompt, output, token or file bytes.

Exceptions are logged as their type and the places they passed, without their text, which may quote a request.
"""

import logging
import sys
import traceback
from types import TracebackType
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "console"]
ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]

QUIET_LOGGERS = ("uvicorn.access", "aiosqlite", "alembic", "asyncio")
"""Libraries whose informational lines are noise or quote requests."""


def create_logger(level: str, form: LogFormat = "auto", stream: TextIO | None = None) -> FilteringBoundLogger:
    """A logger that writes to `stream` (default: standard error). Changes no global state."""
    stream = stream or sys.stderr
    console = form == "console" or (form == "auto" and stream.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _describe_exception,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    return cast(FilteringBoundLogger, logger)


def adopt_standard_logging(logger: FilteringBoundLogger, level: str) -> None:
    """Send what libraries and other rooms log through `logging` to `logger`. Called once, by the server's process."""
    root = logging.getLogger()
    root.handlers = [_Adopted(logger)]
    root.setLevel(level.upper())
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Adopted(logging.Handler):
    """Forwards records of the standard library's logging."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        extra: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        self._logger.log(record.levelno, record.getMessage(), source=record.name, **extra)


def _describe_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        event["exception"] = type(error).__qualname__
        event["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event
