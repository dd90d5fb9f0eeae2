"""What the CPU engine needs to know, as plain values that can travel to its process."""

from typing import Literal

from msgspec import Struct


class CpuOptions(Struct, frozen=True, kw_only=True):
    """Options of the CPU engine; the settings of the same names explain them."""

    model: str
    """Folder of the packed model."""
    threads: int | None = None
    instruction_set: str = "auto"
    kv_cache_bytes: int
    prefix_cache: bool = True
    prefix_cache_bytes: int = 1 << 27
    prefix_cache_share: float = 0.5
    max_sequences: int
    max_queue: int
    step_tokens: int
    step_milliseconds: float = 80
    adapter_memory_bytes: int
    adapter_cache: str
    """Folder of packed adapters."""
    adapter_cache_bytes: int
    adapter_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    draft_tokens: int = 0
    grammar_symbols: int = 500_000
    prepare_grammars: bool = False
    context_window: int | None = None
    """Longest prompt plus output; None is the model's own."""
