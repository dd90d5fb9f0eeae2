"""A packed model's folder: what lies in it, and whether that is whole.

Imports stay light: the server looks here before it starts the engine, and needs no arrays itself.
"""

import os
from pathlib import Path
from typing import Literal, Self

import msgspec

from gemlora.errors import WeightsInvalid

LAYOUT = 4
"""Raised whenever the bytes of `weights.bin` or the meaning of `model.json` change."""

DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "weights.bin"

Quantize = Literal["none", "int8", "int4"]
"""See the setting of that name."""


class Summary(msgspec.Struct, frozen=True):
    """The part of `model.json` that tells whether the files belong together, and what they are."""

    layout: int
    name: str
    digest: str
    """SHA-256 of the checkpoint's files, 64 hex digits."""
    quantize: Quantize
    weights_size: int
    tokenizer: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises `WeightsInvalid` if a file is missing, cut off or of another layout."""
        path = folder / DESCRIPTION_FILE
        try:
            found = msgspec.json.decode(path.read_bytes(), type=cls)
            size = (folder / WEIGHTS_FILE).stat().st_size
        except OSError as error:
            raise WeightsInvalid(f"{folder}: {error.filename}: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise WeightsInvalid(f"{path}: {error}") from error
        if found.layout != LAYOUT:
            raise WeightsInvalid(f"{folder}: packed layout {found.layout} is not {LAYOUT}")
        if size != found.weights_size:
            raise WeightsInvalid(f"{folder / WEIGHTS_FILE}: has {size} bytes, not {found.weights_size}")
        if not (folder / found.tokenizer).is_file():
            raise WeightsInvalid(f"{folder}: {found.tokenizer} is missing")
        return found


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
