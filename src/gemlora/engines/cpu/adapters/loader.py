"""Loads adapters for one served base: from their packed file, or else from the registry's files, which are packed."""

import hashlib
import logging
import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters.layout import LAYOUT, AdapterDtype, AdapterLayout, ServedBase, adapter_layout
from gemlora.engines.cpu.adapters.originals import open_weights, read_manifest
from gemlora.engines.cpu.adapters.packed_files import PackedFiles
from gemlora.engines.cpu.adapters.packing import pack
from gemlora.kernels import Kernels, LoraWeights
from gemlora.storage.manifest import AdapterManifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AdapterLoader:
    """Loads adapters for `base`; `dtype` is the setting `adapter_dtype`, `kernels` compute DoRA's norms.

    `size` may be called beside the other methods, which must not be called from two threads at once.
    """

    base: ServedBase
    dtype: AdapterDtype
    files: PackedFiles
    kernels: Kernels

    def size(self, ref: AdapterRef) -> int:
        """Bytes that the adapter takes in memory, from its manifest alone. Raises `AdapterInvalid`."""
        return self._plan(ref)[1].size

    def load(self, ref: AdapterRef) -> LoraWeights:
        """The adapter, its arrays read-only.

        Raises `AdapterInvalid` if a file is missing or differs from its digest, if a module does not fit the served
        base, or if a value is not finite.
        """
        manifest, layout = self._plan(ref)
        key = self._key(ref)
        arrays = self.files.open(ref.digest, key, layout.size)
        if arrays is None:
            arrays = self._store(ref, key, self._pack(ref, manifest, layout))
        return layout.weights(ref.digest, arrays)

    def discard(self, digest: str) -> None:
        """Delete what was packed of an adapter. Raises `OSError`."""
        self.files.discard(digest)

    def _plan(self, ref: AdapterRef) -> tuple[AdapterManifest, AdapterLayout]:
        manifest = read_manifest(ref)
        return manifest, adapter_layout(manifest, self.base, self.dtype)

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
