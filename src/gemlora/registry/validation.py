"""Whether a PEFT adapter takes full effect on the served base, and the manifest of one that does.

Accepted means: every tensor of the file is used, every module that the config targets has its pair, all shapes fit,
all values are finite. Anything else is refused with the name of the tensor or key.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlora.errors import AdapterInvalid
from gemlora.registry.models import MODULES, AdapterLimits, Base
from gemlora.registry.peft_config import LoraConfig, read_config, suffixes
from gemlora.registry.safetensors_header import ITEM_SIZES, TensorEntry, read_header
from gemlora.registry.strict_json import shown
from gemlora.storage.manifest import AdapterManifest, LoraModule, Tensor
from gemlora.storage.objects import digest_of

__all__ = ["CheckedAdapter", "check_adapter", "fit_adapter", "read_config"]

CHUNK_BYTES = 4 << 20
_PARENTS = {module: "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn" for module in MODULES}
_WRAPPERS = {"base_model", "model", "language_model", "module", "_orig_mod"}
"""Name parts in front of `layers` that training wrappers add."""
_DEFAULT = re.compile(r"(?<=\.lora_[AB])\.default(?=\.weight$)")
"""PEFT's name for the adapter, which `save_pretrained` leaves out and a whole state dict does not."""
_LIMITS: dict[str, tuple[type[np.uint32] | type[np.uint16], int, int]] = {
    "F32": (np.uint32, 0x7F800000, 0x7F7F8000),
    "F16": (np.uint16, 0x7C00, 0x7C00),
    "BF16": (np.uint16, 0x7F80, 0x7F80),
}
"""The bits of infinity, beyond which lies NaN, and of the lowest number that is infinite as bfloat16."""
_KNOWN_PARTS = {
    "lora_magnitude_vector": "DoRA is not supported",
    "lora_embedding_A": "LoRA on embeddings is not supported",
    "lora_embedding_B": "LoRA on embeddings is not supported",
    "trainable_tokens_delta": "trained tokens are not supported",
    "modules_to_save": "whole replaced modules are not supported",
    "vision_tower": "this server's models have no vision tower",
    "vision_model": "this server's models have no vision tower",
    "multi_modal_projector": "this server's models have no vision tower",
    "lm_head": "LoRA on the output head is not supported",
    "embed_tokens": "changed embeddings are not supported",
    "bias": "biases are not supported",
}


@dataclass(frozen=True, slots=True)
class CheckedAdapter:
    """An accepted adapter."""

    manifest: AdapterManifest
    rank: int
    """Highest rank of any module."""
    modules: tuple[str, ...]
    """Names of the modules that it changes."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor belongs: side `A` or `B` of one module; `prefix` is what stands before `layers`."""

    prefix: str
    layer: int
    module: str
    side: str


def check_adapter(
    config: LoraConfig, weights: Path, base: Base, limits: AdapterLimits, weights_digest: str | None = None
) -> CheckedAdapter:
    """Check an adapter against the served base.

    `weights_digest` is the file's SHA-256 where it is known already. Raises `AdapterInvalid` with the tensor's or
    key's name and what was expected.
    """
    checked = fit_adapter(config, weights, base, limits, weights_digest or digest_of(weights))
    silent = _check_values(weights, checked.manifest.modules)
    return replace(checked, warnings=(*_silence(silent, len(checked.manifest.modules)), *checked.warnings))


def fit_adapter(
    config: LoraConfig, weights: Path, base: Base, limits: AdapterLimits, weights_digest: str
) -> CheckedAdapter:
    """Check everything but the tensors' values, which do not depend on the base. Raises `AdapterInvalid`."""
    places = _claim(read_header(weights), base)
    prefix = _common_prefix(places)
    expected = _expected(config, prefix, base)
    _check_complete(places, expected, config, prefix, base)
    modules = tuple(
        _pair(places, _Place(prefix, layer, module, ""), config, base, limits) for layer, module in sorted(expected)
    )
    return CheckedAdapter(
        AdapterManifest(weights_digest, modules),
        rank=max(module.rank for module in modules),
        modules=tuple(module for module in MODULES if any(m.module == module for m in modules)),
        warnings=tuple(_warnings(config, base, prefix, modules)),
    )


def module_name(prefix: str, layer: int, module: str) -> str:
    """The name under which PEFT saw a module, as its patterns mean it."""
    return f"{prefix}layers.{layer}.{_PARENTS[module]}.{module}"


def _claim(tensors: tuple[TensorEntry, ...], base: Base) -> dict[_Place, TensorEntry]:
    places: dict[_Place, TensorEntry] = {}
    for tensor in tensors:
        place = _place(tensor.name)
        if place.layer >= base.layers:
            raise _tensor_invalid(tensor.name, f"the served base {base.name} has only {base.layers} layers")
        if place in places:
            raise _tensor_invalid(tensor.name, f"means the same as {places[place].name}")
        places[place] = tensor
    return places


def _place(name: str) -> _Place:
    match _DEFAULT.sub("", name.removeprefix("base_model.model.")).split("."):
        case [*prefix, "layers", number, parent, module, ("lora_A" | "lora_B") as side, "weight"] if (
            set(prefix) <= _WRAPPERS and _PARENTS.get(module) == parent and _is_layer_number(number)
        ):
            return _Place("".join(f"{part}." for part in prefix), int(number), module, side[-1])
    for part, reason in _KNOWN_PARTS.items():
        if part in name.split("."):
            raise _tensor_invalid(name, reason)
    raise _tensor_invalid(
        name, "belongs to no module; expected base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight and alike"
    )


def _is_layer_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4 and str(int(text)) == text


def _common_prefix(places: dict[_Place, TensorEntry]) -> str:
    prefixes = {place.prefix: tensor.name for place, tensor in places.items()}
    if len(prefixes) > 1:
        first, second, *_ = prefixes.values()
        raise _tensor_invalid(second, f"its prefix differs from that of {first}")
    return next(iter(prefixes))


def _expected(config: LoraConfig, prefix: str, base: Base) -> set[tuple[int, str]]:
    """The (layer, module) pairs that PEFT would change with this config on this base."""
    return {
        (layer, module)
        for layer in range(base.layers)
        for module in MODULES
        if config.covers(module_name(prefix, layer, module), layer)
    }


def _check_complete(
    places: dict[_Place, TensorEntry], expected: set[tuple[int, str]], config: LoraConfig, prefix: str, base: Base
) -> None:
    for place, tensor in places.items():
        if (place.layer, place.module) not in expected:
            raise _tensor_invalid(tensor.name, "is not targeted by adapter_config.json")
    for layer, module in sorted(expected):
        for side in "AB":
            if _Place(prefix, layer, module, side) not in places:
                name = f"base_model.model.{module_name(prefix, layer, module)}.lora_{side}.weight"
                raise _tensor_invalid(name, "is missing, though adapter_config.json targets the module")
    if isinstance(config.targets, frozenset):
        _check_targets(config.targets, prefix, base)
    if config.layers is not None and max(config.layers) >= base.layers:
        raise AdapterInvalid(
            f"adapter_config.json: layers_to_transform names layer {max(config.layers)}; "
            f"the served base {base.name} has {base.layers} layers"
        )


def _check_targets(targets: frozenset[str], prefix: str, base: Base) -> None:
    names = (module_name(prefix, layer, module) for layer in range(base.layers) for module in MODULES)
    known = {suffix for name in names for suffix in suffixes(name)}
    if unknown := sorted(targets - known):
        raise AdapterInvalid(
            f"adapter_config.json: target_modules names {shown(unknown[0])}, which is no linear module of the served "
            f"base {base.name}; expected names among {', '.join(MODULES)}"
        )


def _pair(
    places: dict[_Place, TensorEntry], place: _Place, config: LoraConfig, base: Base, limits: AdapterLimits
) -> LoraModule:
    name = module_name(place.prefix, place.layer, place.module)
    rank = config.rank_of(name)
    if rank > limits.max_rank:
        raise AdapterInvalid(f"adapter_config.json: rank {rank} of {name} is higher than the limit {limits.max_rank}")
    outputs, inputs = base.modules[place.module]
    a = places[_Place(place.prefix, place.layer, place.module, "A")]
    b = places[_Place(place.prefix, place.layer, place.module, "B")]
    _check_shape(a, (rank, inputs), base)
    _check_shape(b, (outputs, rank), base)
    return LoraModule(
        place.layer, place.module, rank, config.scale_of(name), _tensor(a, (rank, inputs)), _tensor(b, (outputs, rank))
    )


def _check_shape(tensor: TensorEntry, expected: tuple[int, int], base: Base) -> None:
    if tensor.shape != expected:
        raise _tensor_invalid(
            tensor.name, f"has shape {list(tensor.shape)}; expected {list(expected)} for the served base {base.name}"
        )


def _tensor(entry: TensorEntry, shape: tuple[int, int]) -> Tensor:
    return Tensor(entry.name, entry.dtype, shape, entry.offset, entry.size)


def _check_values(weights: Path, modules: tuple[LoraModule, ...]) -> int:
    """Refuse values that are not finite; return how many pairs have an A or a B of zeros only."""
    silent = 0
    with weights.open("rb", buffering=0) as file:
        for module in modules:
            both = [_has_nonzero_value(file, tensor) for tensor in (module.a, module.b)]
            silent += not all(both)
    return silent


def _has_nonzero_value(file: RawIOBase, tensor: Tensor) -> bool:
    kind, infinity, too_large = _LIMITS[tensor.dtype]
    magnitude = np.iinfo(kind).max >> 1
    nonzero = False
    position = 0
    for values in _chunks(file, tensor, kind):
        values &= magnitude
        highest = values.max()
        if highest >= too_large:
            is_infinite = highest >= infinity
            index = int(np.argmax(values >= (infinity if is_infinite else too_large)))
            row, column = divmod(position + index, tensor.shape[1])
            what = "a NaN or infinity" if is_infinite else "a value too large for bfloat16"
            raise _tensor_invalid(tensor.name, f"has {what} at [{row}, {column}]")
        nonzero = nonzero or highest > 0
        position += values.size
    return nonzero


def _chunks(file: RawIOBase, tensor: Tensor, kind: type[np.uint32] | type[np.uint16]) -> Iterator[NDArray[Any]]:
    """The tensor's values as unsigned integers, some at a time."""
    file.seek(tensor.offset)
    left = tensor.size
    while left:
        chunk = file.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise _tensor_invalid(tensor.name, "ends before its data do")
        while len(chunk) % ITEM_SIZES[tensor.dtype]:
            chunk += file.read(1) or b"\0"
        left -= len(chunk)
        yield np.frombuffer(bytearray(chunk), dtype=kind)


def _silence(silent: int, modules: int) -> tuple[str, ...]:
    if silent == modules:
        return ("the adapter has no effect: A or B is zero in every module",)
    return (f"{silent} of {modules} modules have no effect: their A or B is zero",) if silent else ()


def _warnings(config: LoraConfig, base: Base, prefix: str, modules: tuple[LoraModule, ...]) -> Iterator[str]:
    for module in modules:
        if config.has_ambiguous_alpha(module_name(prefix, module.layer, module.module)):
            place = module_name(prefix, module.layer, module.module)
            yield f"several patterns in alpha_pattern match {place}; as in PEFT the first one in the file decides"
            break
    name = config.base_name
    if name is not None and "gemma" in name.lower() and _plain(base.name) not in _plain(name):
        yield f"the adapter was trained on {shown(name)}; its shapes fit the served base {base.name}"


def _plain(name: str) -> str:
    return "".join(character for character in name.rsplit("/", 1)[-1].lower() if character.isalnum())


def _tensor_invalid(name: str, reason: str) -> AdapterInvalid:
    return AdapterInvalid(f"adapter_model.safetensors: tensor {name} {reason}")
