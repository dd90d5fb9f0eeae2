"""Logs: one JSON object a line, and nothing of what an exception quotes."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from gemlora.telemetry.logs import adopt_standard_logging, create_logger


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def root() -> Iterator[None]:
    """The standard library's loggers as they were."""
    logger = logging.getLogger()
    handlers, level = logger.handlers, logger.level
    yield
    logger.handlers = handlers
    logger.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(secret: str) -> None:
    raise ValueError(f"cannot read {secret}")


def test_a_line_has_its_event_level_time_and_values(stream: io.StringIO) -> None:
    create_logger("info", "json", stream).bind(request_id="r").info("hello", tokens=5)

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "hello", "level": "info", "request_id": "r", "tokens": 5}


def test_lines_below_the_level_are_not_written(stream: io.StringIO) -> None:
    create_logger("warning", "json", stream).info("hello")

    assert stream.getvalue() == ""


def test_what_is_no_terminal_gets_json(stream: io.StringIO) -> None:
    create_logger("info", "auto", stream).info("hello")

    assert lines(stream)[0]["event"] == "hello"


def test_people_get_plain_lines(stream: io.StringIO) -> None:
    create_logger("info", "console", stream).info("hello", tokens=5)

    assert "hello" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_its_type_and_places_without_its_text(stream: io.StringIO, form: Any) -> None:
    logger = create_logger("info", form, stream)
    try:
        fail("secret")
    except ValueError as error:
        logger.error("failed", exc_info=error)
        logger.error("failed", exc_info=True)

    assert "secret" not in stream.getvalue()
    assert stream.getvalue().count("ValueError") == 2
    assert "test_logs.py" in stream.getvalue()


def test_lines_of_other_libraries_are_adopted_without_their_exceptions_text(stream: io.StringIO, root: None) -> None:
    adopt_standard_logging(create_logger("info", "json", stream), "info")
    try:
        fail("secret")
    except ValueError:
        logging.getLogger("some.library").exception("it broke")
    logging.getLogger("some.library").debug("details")
    logging.getLogger("uvicorn.access").info("GET /?lora=secret")

    (line,) = lines(stream)
    assert (line["event"], line["source"], line["level"]) == ("it broke", "some.library", "error")
    assert line["exception"] == "ValueError"
    assert "secret" not in stream.getvalue()
