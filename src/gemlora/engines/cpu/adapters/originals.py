"""The registry's files of an adapter, read only as far as they are what their digests say."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters.layout import FILE_DTYPES
from gemlora.errors import AdapterInvalid
from gemlora.storage.manifest import AdapterManifest, Tensor


def manifest_bytes(ref: AdapterRef) -> bytes:
    """The bytes of the adapter's manifest. Raises `AdapterInvalid` if it is missing or not what its digest says."""
    try:
        content = Path(ref.manifest).read_bytes()
    except OSError as error:
        raise AdapterInvalid(f"Adapter {ref.digest}: the manifest cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != ref.manifest_digest:
        raise AdapterInvalid(f"Adapter {ref.digest}: the manifest was changed after registration")
    return content


def parse_manifest(digest: str, content: bytes) -> AdapterManifest:
    """The manifest of the adapter `digest`. Raises `AdapterInvalid` if it is none."""
    try:
        return AdapterManifest.from_json(content)
    except ValueError as error:
        raise AdapterInvalid(f"Adapter {digest}: the manifest cannot be read: {error}") from error


@contextmanager
def open_weights(ref: AdapterRef, digest: str) -> Iterator["WeightsFile"]:
    """The adapter's safetensors file, whose SHA-256 must be `digest`. Raises `AdapterInvalid`, also while reading."""
    try:
        with Path(ref.weights).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise AdapterInvalid(f"Adapter {ref.digest}: the weights file was changed after registration")
            yield WeightsFile(file)
    except OSError as error:
        raise AdapterInvalid(f"Adapter {ref.digest}: the weights file cannot be read: {error.strerror}") from error


class WeightsFile:
    """A verified safetensors file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, tensor: Tensor) -> NDArray[np.generic]:
        """A whole tensor."""
        return self.read_rows(tensor, 0, tensor.shape[0])

    def read_rows(self, tensor: Tensor, start: int, stop: int) -> NDArray[np.generic]:
        """The tensor's rows from `start` up to `stop`, or as far as it goes."""
        stop = min(stop, tensor.shape[0])
        row_bytes = tensor.size // tensor.shape[0]
        self._file.seek(tensor.offset + start * row_bytes)
        data = self._file.read((stop - start) * row_bytes)
        if len(data) != (stop - start) * row_bytes:
            raise AdapterInvalid(f"{tensor.name} lies outside the weights file")
        return np.frombuffer(data, FILE_DTYPES[tensor.dtype]).reshape(stop - start, *tensor.shape[1:])
