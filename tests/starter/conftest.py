"""A registry over a fresh data folder, as the registry's own tests have it."""

from tests.registry.conftest import registry

__all__ = ["registry"]
