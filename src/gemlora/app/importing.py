"""Imports of much code at once. The garbage collector would take a fifth of their time and find next to nothing."""

import gc
from importlib import import_module
from types import ModuleType


def import_uncollected(name: str) -> ModuleType:
    """Import a module with all that it needs. What exists then stays: the collector never looks through it again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        module = import_module(name)
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
    return module
