"""Every setting of gemlora with its default: from flags, `GEMLORA_*` variables or a TOML file, in that order."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gemlora.errors import SettingsInvalid

MIB = 1 << 20
GIB = 1 << 30
PREFIX = "GEMLORA_"
CONFIG_VARIABLE = "GEMLORA_CONFIG"
"""Names the TOML file when no flag does."""
PRESETS = {
    "cloudflare-2024": {"max_adapter_rank": 8, "max_adapter_bytes": 100_000_000, "max_adapters": 30},
    "cloudflare-2026": {"max_adapter_rank": 32, "max_adapter_bytes": 300_000_000, "max_adapters": 100},
}
"""What `limits` stands for."""
CLIENT_VARIABLE = "GEMLORA_URL"
"""The server that commands and the Worker template ask; no setting of the server, but in the same shell perhaps."""


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError("must not be empty")
    return value


def _printable_ascii(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("must be printable ASCII, without blanks at its ends")
    return token


def _postgres_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("must start with postgresql://")
    return url


def _with_home(text: str) -> str:
    return str(Path(text).expanduser()) if text.startswith("~") else text


def _xdg_folder(variable: str, default: str) -> Path:
    """A folder for gemlora as the XDG base directory specification says: relative values are ignored."""
    base = Path(os.environ.get(variable, ""))
    return (base if base.is_absolute() else Path(default).expanduser()) / "gemlora"


Folder = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(Path.expanduser)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
Token = Annotated[SecretStr, AfterValidator(_printable_ascii)]


class Settings(BaseSettings):
    """All settings; unknown keys are errors. `load` also reads a TOML file and reports every error at once."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.", examples=["localhost"])
    port: int = Field(8790, ge=0, le=65535, description="Port to listen on; 0 takes a free one.", examples=[8790])
    data_dir: Folder = Field(
        default_factory=lambda: _xdg_folder("XDG_DATA_HOME", "~/.local/share"),
        description="Accounts, tokens and adapters live here. Created when missing.",
        examples=["/var/lib/gemlora"],
        json_schema_extra={"default": "$XDG_DATA_HOME/gemlora, else ~/.local/share/gemlora"},
    )
    cache_dir: Folder = Field(
        default_factory=lambda: _xdg_folder("XDG_CACHE_HOME", "~/.cache"),
        description="Converted weights; may be deleted while no server runs.",
        examples=["/var/cache/gemlora"],
        json_schema_extra={"default": "$XDG_CACHE_HOME/gemlora, else ~/.cache/gemlora"},
    )

    database_url: DatabaseUrl | None = Field(
        None,
        description="PostgreSQL database for accounts, tokens and adapters. Default: an SQLite file in `data_dir`.",
        examples=["postgresql://user:password@host/database"],
    )
    object_store: str = Field(
        "",
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?)?$",
        description="S3-compatible bucket for adapter files. Empty: a folder in `data_dir`.",
        examples=["s3://bucket/prefix"],
    )
    object_store_endpoint: str | None = Field(
        None,
        pattern="^https?://[^/]+/?$",
        description="Address of an S3-compatible store other than AWS.",
        examples=["https://storage.example.com"],
    )
    object_store_region: str | None = Field(
        None, min_length=1, description="Region of the bucket. Default: `AWS_REGION`.", examples=["eu-central-1"]
    )
    object_store_access_key: SecretStr | None = Field(
        None, description="Access key of the bucket. Default: `AWS_ACCESS_KEY_ID`.", examples=["access-key"]
    )
    object_store_secret_key: SecretStr | None = Field(
        None, description="Secret key of the bucket. Default: `AWS_SECRET_ACCESS_KEY`.", examples=["secret-key"]
    )
    object_cache_bytes: int = Field(
        16 * GIB,
        ge=MIB,
        description="Local copies of adapter files that lie in a bucket; least recently used leave first.",
        examples=[GIB],
    )

    account_id: str | None = Field(
        None,
        pattern="^[0-9a-f]{32}$",
        description="Id of the first account, 32 hexadecimal digits. Made up when not given.",
        examples=["0123456789abcdef0123456789abcdef"],
    )
    api_token: Token | None = Field(
        None,
        description="Token of the first account, printable ASCII. Made up when not given.",
        examples=["any-text-you-like"],
    )

    sign_in_seconds: float = Field(
        900,
        ge=0,
        description="How long the printed link signs the playground in, once, where only this machine reaches the "
        "server; 0 prints the bare address.",
        examples=[900],
    )

    model: str = Field(
        "@cf/google/gemma-7b-it-lora",
        min_length=1,
        description="Catalogue id under which the weights are served.",
        examples=["@cf/google/gemma-7b-it-lora"],
    )
    weights: Annotated[str, AfterValidator(_with_home)] = Field(
        "starter",
        min_length=1,
        description="`starter`, a GGUF file, a Hugging Face folder, or a Hugging Face hub id.",
        examples=["google/gemma-7b-it"],
    )
    revision: str | None = Field(
        None, min_length=1, description="Revision of a hub id: branch, tag or commit.", examples=["main"]
    )
    hub_token: SecretStr | None = Field(
        None, description="Hugging Face token for gated checkpoints.", examples=["hf_..."]
    )
    quantize: Literal["none", "int8", "int4"] = Field(
        "int8",
        description="`int8` computes with 8-bit weights and activations; `int4` stores the weights of layers in "
        "4 bits, for less memory and less quality; `none` keeps the file's weights. 4-bit weights of a GGUF "
        "keep their values, with `int8` only where most of the layers' weights are such; its other quantised "
        "weights are rounded to 8 bits.",
        examples=["int8"],
    )
    context_window: int | None = Field(
        None,
        ge=16,
        description="Longest prompt plus output in tokens. Default: the weights' own, at most 8192.",
        examples=[8192],
    )

    engine: Literal["cpu", "fake"] = Field(
        "cpu", description="`fake` answers without weights, for tests.", examples=["cpu"]
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="Compute threads. Default: the cores this process may use.", examples=[4]
    )
    instruction_set: Literal["auto", "portable", "neon", "avx2", "avx512"] = Field(
        "auto",
        description="Kernel variant. All give the same results; `auto` takes the fastest that the CPU has.",
        examples=["auto"],
    )
    kv_cache_bytes: int = Field(
        2 * GIB, ge=MIB, description="Upper bound of the KV cache. Touched only as used.", examples=[GIB]
    )
    prefix_cache: bool = Field(
        True,
        description="Whether prompts that begin alike are computed once, for each account apart.",
        examples=["true"],
        json_schema_extra={"default": "true"},
    )
    prefix_cache_bytes: int = Field(
        128 * MIB,
        ge=0,
        description="Most of the KV cache that is kept for later requests when no request uses it.",
        examples=[GIB],
    )
    prefix_cache_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Part of what is kept that an account may have before its own leaves first.",
        examples=[0.5],
    )
    max_sequences: int = Field(32, ge=1, le=4096, description="Sequences computed at the same time.", examples=[32])
    max_queue: int = Field(
        512, ge=1, description="Requests waiting for the engine before new ones are refused.", examples=[512]
    )
    step_tokens: int = Field(
        512, ge=16, le=65536, description="Most tokens of one step: prompts are cut to fit.", examples=[512]
    )
    step_milliseconds: float = Field(
        80,
        gt=0,
        description="How long a step should take: prompts are cut to fit. Short ones that come meanwhile are computed "
        "within it, and may make it half as long again.",
        examples=[80],
    )
    draft_tokens: int = Field(
        8,
        ge=0,
        le=64,
        description="Most tokens guessed ahead where a text repeats itself; 0: none. Changes speed only, no token.",
        examples=[8],
    )
    grammar_symbols: int = Field(
        500_000,
        ge=1,
        le=100_000_000,
        description="Largest schema or grammar that an answer may be held to, in symbols of its rules.",
        examples=[500_000],
    )
    prepare_grammars: bool = Field(
        False,
        description="Whether what every schema and grammar needs of the vocabulary is made before the server is ready: "
        "two seconds and 130 MB with 262,144 tokens. Else it is made for the first answer that is held to one, and for "
        "more than a second of that all others stand still.",
        examples=["true"],
        json_schema_extra={"default": "false"},
    )
    adapter_memory_bytes: int = Field(
        GIB, ge=MIB, description="Adapters kept in memory, least recently used leave first.", examples=[GIB]
    )
    adapter_dtype: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="`auto`: int8 with a scale for 64 weights beside a quantised base, else the adapter's own.",
        examples=["auto"],
    )
    adapter_cache_bytes: int = Field(
        16 * GIB,
        ge=0,
        description="Adapters kept in the kernels' layout in the cache folder, least recently used leave first.",
        examples=[16 * GIB],
    )
    default_adapter: str | None = Field(
        None,
        description="Adapter used when a request names none and is not raw. Empty, or `cf-public-base`: none.",
        examples=["my-adapter"],
        json_schema_extra={"default": "cf-public-chat with the starter weights, else none"},
    )

    max_body_bytes: int = Field(16 * MIB, ge=1024, description="Largest request body.", examples=[16 * MIB])
    max_schema_bytes: int = Field(
        64 << 10,
        ge=64,
        description="Largest JSON schema that answers are held to; also all tools of a request together.",
        examples=[64 << 10],
    )
    max_schema_depth: int = Field(32, ge=1, le=64, description="How deep a schema may be nested.", examples=[32])
    max_schema_properties: int = Field(
        1000, ge=1, description="Properties and definitions of a schema, nested ones too.", examples=[1000]
    )
    max_schema_values: int = Field(1000, ge=1, description="Values in the enums of a schema.", examples=[1000])
    max_schema_items: int = Field(
        1000,
        ge=1,
        description="Highest number of items, properties or alternatives that a schema may demand; what it allows "
        "beyond is cut to it.",
        examples=[1000],
    )
    max_schema_length: int = Field(
        65_536,
        ge=1,
        description="The same for characters.",
        examples=[65_536],
    )
    max_tools: int = Field(128, ge=1, description="Tools of a request.", examples=[128])
    max_tool_calls: int = Field(16, ge=1, le=256, description="Calls of tools in one answer.", examples=[16])
    limits: Literal["none", "cloudflare-2024", "cloudflare-2026"] = Field(
        "none",
        description="What the hosted service allowed that year: rank, bytes and number of adapters, "
        "where they are not set themselves (8, 100 MB, 30; 32, 300 MB, 100).",
        examples=["cloudflare-2026"],
    )
    max_adapter_bytes: int = Field(2 * GIB, ge=1024, description="Largest adapter file.", examples=[300_000_000])
    max_adapter_rank: int = Field(256, ge=1, le=4096, description="Highest LoRA rank.", examples=[32])
    max_adapters: int = Field(
        0, ge=0, description="How many adapters an account may have, public ones not counted; 0: any number.",
        examples=[100],
    )  # fmt: skip
    max_aliases: int = Field(1000, ge=1, description="Aliases that an account may have.", examples=[1000])
    max_alias_versions: int = Field(
        16, ge=1, le=1000, description="Versions that an alias may point to.", examples=[16]
    )
    shadow_concurrency: int = Field(
        4,
        ge=0,
        le=4096,
        description="Shadow runs of aliases that are computed at the same time, beside the requests; what comes "
        "meanwhile is dropped. 0: all are.",
        examples=[4],
    )
    max_shadow_pairs: int = Field(
        200, ge=1, description="Pairs of answers that are kept of an alias's shadows, the newest ones.", examples=[200]
    )
    shadow_text_seconds: float = Field(
        0,
        ge=0,
        description="How long the texts of these pairs, prompts and answers, are kept for a person to compare; "
        "0: not at all.",
        examples=[86400],
    )
    collect_seconds: float = Field(
        3600, gt=0, description="How often files that no adapter uses are deleted.", examples=[3600]
    )
    blob_grace_seconds: float = Field(
        3600, ge=0, description="Unused files younger than this stay, for requests in flight.", examples=[3600]
    )
    max_batch_requests: int = Field(
        1000, ge=1, le=100_000, description="Requests of one asynchronous batch.", examples=[1000]
    )
    max_batches: int = Field(
        1000, ge=1, description="Batches that an account may have, those that are kept after their end included.",
        examples=[1000],
    )  # fmt: skip
    batch_concurrency: int = Field(
        4, ge=1, le=4096, description="Requests of batches that are computed at the same time.", examples=[4]
    )
    batch_keep_seconds: float = Field(
        86400, gt=0, description="How long the answers of a batch are kept after its end.", examples=[86400]
    )
    header_seconds: float = Field(
        10, gt=0, le=86400, description="How long a client may take to send a request's headers.", examples=[10]
    )
    body_idle_seconds: float = Field(
        15, gt=0, le=86400, description="How long a client may pause while it sends a body.", examples=[15]
    )
    write_stall_seconds: float = Field(
        30, gt=0, le=86400, description="How long a reader may stall before its stream is cut.", examples=[30]
    )
    drain_seconds: float = Field(
        30, ge=0, le=86400, description="How long running requests may finish after SIGTERM.", examples=[30]
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level to log.", examples=["info"]
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto`: coloured lines on a terminal, else JSON lines.", examples=["json"]
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        """The preset's limits where none are given."""
        return {**PRESETS.get(str(values.get("limits")), {}), **values} if isinstance(values, dict) else values

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Given values, then the environment; no dotenv files."""
        return init_settings, env_settings

    @classmethod
    def load(cls, flags: Mapping[str, Any], config: Path | None = None) -> "Settings":
        """Settings from flags, then the environment, then the TOML file `config` or `GEMLORA_CONFIG`.

        Raises `SettingsInvalid` with every error: the key and where it came from, the rule and an example.
        """
        variables = {name.upper() for name in os.environ if name.upper().startswith(PREFIX)}
        variables -= {CONFIG_VARIABLE, CLIENT_VARIABLE}
        problems = [
            _unknown(variable, variable.removeprefix(PREFIX).lower())
            for variable in variables
            if variable.removeprefix(PREFIX).lower() not in cls.model_fields
        ]
        path = config or Path(os.environ.get(CONFIG_VARIABLE, ""))
        file = {} if path == Path() else _read_toml(path.expanduser())
        problems += [_unknown(f"{path}: {key}", key) for key in file if key not in cls.model_fields]
        values = {
            key: value for key, value in file.items() if key in cls.model_fields and _variable(key) not in variables
        }
        try:
            settings = cls(**values | dict(flags))
        except ValidationError as error:
            origins = {key: f"{path}: {key}" for key in file}
            origins |= {key: _variable(key) for key in cls.model_fields if _variable(key) in variables}
            origins |= {key: flag(key) for key in flags}
            problems += [_described(details, origins) for details in error.errors(include_url=False)]
        if problems:
            raise SettingsInvalid("\n".join(["These settings are wrong:", *sorted(problems)]))
        return settings


def flag(key: str) -> str:
    """The command line's name of a setting."""
    return f"--{key.replace('_', '-')}"


def _variable(key: str) -> str:
    return f"{PREFIX}{key.upper()}"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsInvalid(f"Could not read the settings file {path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsInvalid(f"The settings file {path} is not valid TOML: {error}") from None


def _unknown(shown: str, key: str) -> str:
    close = difflib.get_close_matches(key, Settings.model_fields, n=1)
    return f"  {shown} is not a setting" + (f"; did you mean {close[0]}?" if close else "")


def _described(details: ErrorDetails, origins: Mapping[str, str]) -> str:
    """`--port 70000: Input should be less than or equal to 65535; for example 8790`."""
    key = str(details["loc"][0])
    field = Settings.model_fields[key]
    secret = "SecretStr" in str(field.annotation)
    value = "(hidden)" if secret else repr(details["input"])
    rule = details["msg"].removeprefix("Value error, ")
    return f"  {origins.get(key, key)} {value}: {rule}; for example {(field.examples or [''])[0]}"
