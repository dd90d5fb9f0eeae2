"""Loads adapters for one served base: from their packed file, or else from the registry's files, which are packed."""

import hashlib
import logging
import mmap
from functools import lru_cache

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters.layout import LAYOUT, AdapterDtype, AdapterLayout, ServedBase, adapter_layout
from gemlora.engines.cpu.adapters.originals import manifest_bytes, open_weights, parse_manifest
from gemlora.engines.cpu.adapters.packed_files import PackedFiles
from gemlora.engines.cpu.adapters.packing import pack
from gemlora.kernels import Kernels, LoraWeights
from gemlora.storage.manifest import AdapterManifest

logger = logging.getLogger(__name__)


REMEMBERED_MANIFESTS = 16
"""How many of them are kept, parsed: whoever opens an adapter has asked for its size before."""

REMEMBERED_LAYOUTS = 16
"""How many are kept, each for all adapters that differ in their weights alone."""


class AdapterLoader:
    """Loads adapters for `base`; `dtype` is the setting `adapter_dtype`, `kernels` compute DoRA's norms.

    One thread may call `open` and `discard`, another one `pack`, and any `size`.
    """

    def __init__(self, base: ServedBase, dtype: AdapterDtype, files: PackedFiles, kernels: Kernels) -> None:
        self.base = base
        self.dtype = dtype
        self.files = files
        self.kernels = kernels
        self._parsed = lru_cache(REMEMBERED_MANIFESTS)(parse_manifest)
        self._laid_out = lru_cache(REMEMBERED_LAYOUTS)(self._lay_out)

    def size(self, ref: AdapterRef) -> int:
        """Bytes that the adapter takes in memory, from its manifest alone. Raises `AdapterInvalid`."""
        return self._plan(ref)[1].size

    def load(self, ref: AdapterRef) -> LoraWeights:
        """The adapter, packed now if it was not. For measurements without an engine."""
        return self.open(ref) or self.pack(ref)

    def open(self, ref: AdapterRef) -> LoraWeights | None:
        """The adapter, its arrays read-only; None if it is not packed.

        Raises `AdapterInvalid` if the manifest is missing or was changed, or if a module does not fit the served base.
        """
        _, layout = self._plan(ref)
        arrays = self.files.open(ref.digest, self._key(ref), layout.size)
        return None if arrays is None else layout.weights(ref.digest, arrays)

    def pack(self, ref: AdapterRef) -> LoraWeights:
        """The adapter, its arrays read-only, from the registry's files.

        Raises `AdapterInvalid` as `open` does and if the weights are missing or were changed, or if a value is not
        finite.
        """
        manifest, layout = self._plan(ref)
        return layout.weights(ref.digest, self._store(ref, self._key(ref), self._pack(ref, manifest, layout)))

    def discard(self, digest: str) -> None:
        """Delete what was packed of an adapter. Raises `OSError`."""
        self.files.discard(digest)

    def _plan(self, ref: AdapterRef) -> tuple[AdapterManifest, AdapterLayout]:
        manifest = self._parsed(ref.digest, manifest_bytes(ref))
        return manifest, self._laid_out(replace(manifest, weights_digest=""))

    def _lay_out(self, manifest: AdapterManifest) -> AdapterLayout:
        return adapter_layout(manifest, self.base, self.dtype)

    def _key(self, ref: AdapterRef) -> str:
        """A hash of everything that decides what the arrays hold."""
        parts = (ref.digest, ref.manifest_digest, self.base.digest, self.base.quantize, self.dtype, str(LAYOUT))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _pack(self, ref: AdapterRef, manifest: AdapterManifest, layout: AdapterLayout) -> NDArray[np.uint8]:
        # A mapping of its own: dropping it returns the memory at once, which many small heap allocations would not.
        memory = mmap.mmap(-1, layout.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        arrays = np.frombuffer(memory, np.uint8)
        with open_weights(ref, manifest.weights_digest) as weights:
            pack(layout, manifest, weights, self.base, self.kernels, arrays)
        return arrays

    def _store(self, ref: AdapterRef, key: str, arrays: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The packed file's arrays, or, if it cannot be written, those in private memory."""
        try:
            self.files.write(ref.digest, key, arrays)
        except OSError as error:
            logger.warning("the packed adapter %s cannot be stored: %s", ref.digest, error.strerror)
        stored = self.files.open(ref.digest, key, len(arrays))
        if stored is not None:
            return stored
        arrays.flags.writeable = False
        return arrays
