"""Adapters of the engine: packed once from the registry's files, mapped into memory, and kept within a budget."""

from gemlora.engines.cpu.adapters.loader import AdapterLoader
from gemlora.engines.cpu.adapters.packed_files import PackedFiles
from gemlora.engines.cpu.adapters.pool import AdapterPool, Loader

__all__ = ["AdapterLoader", "AdapterPool", "Loader", "PackedFiles"]
