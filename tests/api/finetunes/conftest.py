"""The application over a real registry, in process: Alice, the operator, and files that fit."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.api.real_parts import (
    RealParts,
    peft_files,
    real_parts,
)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[RealParts]:
    async with real_parts(tmp_path / "data") as parts:
        yield parts


@pytest.fixture
async def client(parts: RealParts) -> AsyncIterator[httpx.AsyncClient]:
    async with parts.client() as client:
        yield client


@pytest.fixture
async def operator(parts: RealParts) -> AsyncIterator[httpx.AsyncClient]:
    async with parts.client("operator") as client:
        yield client


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return peft_files(at=tmp_path / "peft")
