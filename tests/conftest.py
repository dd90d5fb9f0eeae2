"""What all tests share."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    """Commands keep what they import from the garbage collector; the tests' process runs many, and has garbage too."""
    yield
    gc.unfreeze()
