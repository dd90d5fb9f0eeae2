"""The manifest of a stored adapter: which part of the base each LoRA pair changes and where its bytes lie.

Written once by the registry after validation, read by the engines, so that no engine interprets PEFT's config.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor inside a safetensors file. `offset` counts bytes from the start of the file."""

    name: str
    dtype: str
    """`F32`, `F16` or `BF16`."""
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class LoraModule:
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


@dataclass(frozen=True, slots=True)
class EmbeddingLora:
    """LoRA on the input embedding alone: A is [rank, vocabulary], B is [hidden, rank], DoRA's magnitude [hidden]."""

    rank: int
    scale: float
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None


@dataclass(frozen=True, slots=True)
class HeadLora:
    """LoRA on the output head alone: A is [rank, hidden], B is [vocabulary, rank], DoRA's magnitude [vocabulary]."""

    rank: int
    scale: float
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None


@dataclass(frozen=True, slots=True)
class BaseCopy:
    """Base weights [vocabulary, hidden] that PEFT saved beside the adapter; engines refuse them if they are changed."""

    module: str
    """`embed_tokens` or `lm_head`."""
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """All that an adapter changes. `weights_digest` is the SHA-256 of the safetensors file."""

    weights_digest: str
    modules: tuple[LoraModule, ...]
    embedding: EmbeddingLora | None = None
    head: HeadLora | None = None
    copies: tuple[BaseCopy, ...] = ()

    def to_json(self) -> bytes:
        """The manifest as JSON."""
        return json.dumps(asdict(self)).encode()

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

        Raises `ValueError`, `TypeError` or `KeyError` for anything else.
        """
        data = _object(json.loads(content))
        embedding, head = data.get("embedding"), data.get("head")
        return cls(
            data["weights_digest"],
            tuple(LoraModule(**_with_tensors(entry)) for entry in data["modules"]),
            None if embedding is None else EmbeddingLora(**_with_tensors(embedding)),
            None if head is None else HeadLora(**_with_tensors(head)),
            tuple(BaseCopy(entry["module"], _tensor(entry["tensor"])) for entry in data.get("copies", ())),
        )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("expected an object")
    return value


def _with_tensors(value: Any) -> dict[str, Any]:
    data = _object(value)
    magnitude = data.get("magnitude")
    return {
        **data,
        "a": _tensor(data["a"]),
        "b": _tensor(data["b"]),
        "magnitude": None if magnitude is None else _tensor(magnitude),
    }


def _tensor(data: dict[str, Any]) -> Tensor:
    return Tensor(**{**data, "shape": tuple(data["shape"])})
