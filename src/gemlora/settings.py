"""Every setting of gemlora with its default: from flags, `GEMLORA_*` variables or a TOML file, in that order."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20
GIB = 1 << 30


class Settings(BaseSettings):
    """All settings; unknown keys are errors."""

    model_config = SettingsConfigDict(env_prefix="GEMLORA_", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8790, ge=0, le=65535, description="Port to listen on.")
    data_dir: Path = Field(
        Path("~/.local/share/gemlora"), description="Accounts, tokens and adapters live here. Created when missing."
    )
    cache_dir: Path = Field(Path("~/.cache/gemlora"), description="Converted weights; may be deleted at any time.")

    account_id: str | None = Field(
        None, pattern="^[0-9a-f]{32}$", description="Id of the first account. Made up when not given."
    )
    api_token: SecretStr | None = Field(None, description="Token of the first account. Made up when not given.")

    model: str = Field("@cf/google/gemma-7b-it-lora", description="Catalogue id under which the weights are served.")
    weights: str = Field(
        "starter", description="`starter`, a GGUF file, a Hugging Face folder, or a Hugging Face hub id."
    )
    revision: str | None = Field(None, description="Revision of a hub id: branch, tag or commit.")
    hub_token: SecretStr | None = Field(None, description="Hugging Face token for gated checkpoints.")
    quantize: Literal["none", "int8"] = Field(
        "int8", description="`int8` computes with 8-bit weights and activations; `none` keeps the file's precision."
    )
    context_window: int | None = Field(
        None, ge=16, description="Longest prompt plus output in tokens. Default: the weights' own, at most 8192."
    )

    engine: Literal["cpu", "fake"] = Field("cpu", description="`fake` answers without weights, for tests.")
    threads: int | None = Field(
        None, ge=1, le=1024, description="Compute threads. Default: the cores this process may use."
    )
    instruction_set: Literal["auto", "portable", "avx2", "avx512"] = Field(
        "auto", description="Kernel variant. All give the same results; `auto` takes the fastest that the CPU has."
    )
    kv_cache_bytes: int = Field(2 * GIB, ge=MIB, description="Upper bound of the KV cache. Touched only as used.")
    max_sequences: int = Field(32, ge=1, le=4096, description="Sequences computed at the same time.")
    max_queue: int = Field(512, ge=1, description="Requests waiting for the engine before new ones are refused.")
    step_tokens: int = Field(512, ge=16, le=65536, description="Most tokens of one step: prompts are cut to fit.")
    adapter_memory_bytes: int = Field(
        GIB, ge=MIB, description="Adapters kept in memory, least recently used leave first."
    )
    adapter_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto`: bfloat16 beside a quantised base, else the adapter's own."
    )
    default_adapter: str = Field("", description="Adapter used when a request names none and is not raw. Empty: none.")

    max_body_bytes: int = Field(16 * MIB, ge=1024, description="Largest request body.")
    max_adapter_bytes: int = Field(2 * GIB, ge=1024, description="Largest adapter file.")
    max_adapter_rank: int = Field(256, ge=1, le=4096, description="Highest LoRA rank.")
    drain_seconds: float = Field(30, ge=0, description="How long running requests may finish after SIGTERM.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level to log.")
