"""Checkpoints of Gemma 1, 2 and 3: found, converted once into the packed layout, and opened from there."""

from gemlora.engines.cpu.weights.packed import PackedModel, facts

__all__ = ["PackedModel", "facts"]
