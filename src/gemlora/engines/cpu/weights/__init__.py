"""Checkpoints of Gemma 1, 2 and 3: found, converted once into the packed layout, and opened from there."""
