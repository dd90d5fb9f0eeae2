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
    shape: tuple[int, int]
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


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """All LoRA pairs of an adapter. `weights_digest` is the SHA-256 of the safetensors file."""

    weights_digest: str
    modules: tuple[LoraModule, ...]

    def to_json(self) -> bytes:
        """The manifest as JSON."""
        return json.dumps(asdict(self)).encode()

    def write(self, path: Path) -> None:
        """Write the manifest as JSON."""
        path.write_bytes(self.to_json())

    @classmethod
    def read(cls, path: Path) -> "AdapterManifest":
        """Read a manifest that `write` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(data["weights_digest"], tuple(_module(entry) for entry in data["modules"]))


def _module(data: dict[str, Any]) -> LoraModule:
    return LoraModule(**{**data, "a": _tensor(data["a"]), "b": _tensor(data["b"])})


def _tensor(data: dict[str, Any]) -> Tensor:
    return Tensor(**{**data, "shape": tuple(data["shape"])})
