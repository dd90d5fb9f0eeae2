"""The manifest of a stored adapter: which part of the base each LoRA pair changes and where its bytes lie.

Written once by the registry after validation, read by the engines, so that no engine interprets PEFT's config.
"""

from pathlib import Path

import msgspec
from msgspec import Struct


class Tensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor inside a safetensors file. `offset` counts bytes from the start of the file."""

    name: str
    dtype: str
    """`F32`, `F16` or `BF16`."""
    shape: tuple[int, ...]
    offset: int
    size: int


class LoraModule(Struct, frozen=True, forbid_unknown_fields=True):
    """y += scale · B (A x) on one linear module of one layer. A is [rank, inputs], B is [outputs, rank]."""

    layer: int
    module: str
    """`q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj` or `down_proj`."""
    rank: int
    scale: float
    """alpha / r, or alpha / sqrt(r) for rsLoRA, patterns already applied."""
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None
    """[outputs], with DoRA."""


class EmbeddingLora(Struct, frozen=True, forbid_unknown_fields=True):
    """LoRA on the input embedding alone: A is [rank, vocabulary], B is [hidden, rank], DoRA's magnitude [hidden]."""

    rank: int
    scale: float
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None


class HeadLora(Struct, frozen=True, forbid_unknown_fields=True):
    """LoRA on the output head alone: A is [rank, hidden], B is [vocabulary, rank], DoRA's magnitude [vocabulary]."""

    rank: int
    scale: float
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None


class BaseCopy(Struct, frozen=True, forbid_unknown_fields=True):
    """Base weights [vocabulary, hidden] that PEFT saved beside the adapter; engines refuse them if they are changed."""

    module: str
    """`embed_tokens` or `lm_head`."""
    tensor: Tensor


class AdapterManifest(Struct, frozen=True, forbid_unknown_fields=True):
    """All that an adapter changes. `weights_digest` is the SHA-256 of the safetensors file."""

    weights_digest: str
    modules: tuple[LoraModule, ...]
    embedding: EmbeddingLora | None = None
    head: HeadLora | None = None
    copies: tuple[BaseCopy, ...] = ()

    def to_json(self) -> bytes:
        """The manifest as JSON."""
        return msgspec.json.encode(self)

    def write(self, path: Path) -> None:
        """Write the manifest as JSON."""
        path.write_bytes(self.to_json())

    @classmethod
    def read(cls, path: Path) -> "AdapterManifest":
        """Read a manifest that `write` wrote."""
        return cls.from_json(path.read_bytes())

    @classmethod
    def from_json(cls, content: bytes) -> "AdapterManifest":
        """What `to_json` made, now or before there were embeddings, heads and copies.

        Raises `ValueError` for anything else.
        """
        return msgspec.json.decode(content, type=cls)
