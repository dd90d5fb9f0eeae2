"""PEFT's names of tensors and modules: which part of which module of a Gemma model a tensor is."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from gemlora.errors import AdapterInvalid
from gemlora.registry.models import MODULES
from gemlora.registry.safetensors_header import TensorEntry

EMBEDDING = "embed_tokens"
HEAD = "lm_head"


class Part(Enum):
    """What a tensor is to its module; the value says how PEFT ends its name on a linear module."""

    A = "lora_A.weight"
    B = "lora_B.weight"
    MAGNITUDE = "lora_magnitude_vector"
    COPY = "base_layer.weight"
    """The base's own weights, which PEFT saves beside an adapter of the embedding or the head."""


class Target(NamedTuple):
    """A module that LoRA may change: a linear module of a layer, or the embedding or head, which lie in none."""

    layer: int | None
    module: str


class Place(NamedTuple):
    """Where a tensor belongs."""

    target: Target
    part: Part


@dataclass(frozen=True, slots=True)
class ModuleNames:
    """The names under which PEFT saw the modules. `body` stands before `layers` and `embed_tokens`."""

    body: str

    def of(self, target: Target) -> str:
        """The name of a module, as patterns mean it."""
        if target.layer is None:
            return (self.root if target.module == HEAD else self.body) + target.module
        return f"{self.body}layers.{target.layer}.{_PARENTS[target.module]}.{target.module}"

    def tensor(self, place: Place) -> str:
        """The name that PEFT gives a tensor."""
        end = place.part.value
        if place.target.module == EMBEDDING and place.part in (Part.A, Part.B):
            end = f"lora_embedding_{place.part.name}"
        return f"base_model.model.{self.of(place.target)}.{end}"

    @property
    def root(self) -> str:
        """What stands before `lm_head`, which is not within `model`."""
        return self.body.removesuffix("language_model.").removesuffix("model.")


_PARENTS = {module: "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn" for module in MODULES}
_MAGNITUDE = {"lora_magnitude_vector": Part.MAGNITUDE, "lora_magnitude_vector.weight": Part.MAGNITUDE}
_COPY = {"base_layer.weight": Part.COPY, "weight": Part.COPY}
_LINEAR = {"lora_A.weight": Part.A, "lora_B.weight": Part.B} | _MAGNITUDE
_ENDS = {
    EMBEDDING: {"lora_embedding_A": Part.A, "lora_embedding_B": Part.B} | _MAGNITUDE | _COPY,
    HEAD: _LINEAR | _COPY,
}
"""The ends of names outside the layers; within the layers all modules have `_LINEAR`."""

_NAME = re.compile(
    r"(?P<prefix>(?:(?:base_model|model|language_model|module|_orig_mod)\.)*)"
    r"(?:layers\.(?P<layer>0|[1-9][0-9]{0,3})\.(?P<parent>[a-z_]+)\.(?P<linear>[a-z_]+)|(?P<outer>embed_tokens|lm_head))"
    r"\.(?P<end>[A-Za-z_.]+)"
)
"""A prefix has only the parts that models and wrappers around them add at training."""
_ADAPTER_NAME = re.compile(r"(?<=\.)(lora_[A-Za-z_]+)\.default(?=\.weight$|$)")
"""PEFT's name for the adapter, which `save_pretrained` leaves out and a whole state dict does not."""

_REASONS = {
    "trainable_tokens_delta": "trained tokens are not supported",
    "modules_to_save": "whole replaced modules are not supported",
    "vision_tower": "this server's models have no vision tower",
    "vision_model": "this server's models have no vision tower",
    "multi_modal_projector": "this server's models have no vision tower",
    "bias": "biases are not supported",
}
"""Parts of names that say why a tensor belongs nowhere."""


def claim(tensors: Iterable[TensorEntry]) -> tuple[dict[Place, TensorEntry], ModuleNames]:
    """Give every tensor its place. Raises `AdapterInvalid` for one without a place, or for two with the same."""
    places: dict[Place, TensorEntry] = {}
    bodies: dict[str, str] = {}
    roots: dict[str, str] = {}
    for tensor in tensors:
        prefix, place = _read(tensor.name)
        if place in places:
            raise name_invalid(tensor.name, f"means the same as {places[place].name}")
        places[place] = tensor
        (roots if place.target.module == HEAD else bodies).setdefault(prefix, tensor.name)
    return places, _module_names(bodies, roots)


def name_invalid(name: str, reason: str) -> AdapterInvalid:
    """The refusal of one tensor."""
    return AdapterInvalid(f"adapter_model.safetensors: tensor {name} {reason}")


def _read(name: str) -> tuple[str, Place]:
    """The prefix of a name and the place that it means."""
    match = _NAME.fullmatch(_ADAPTER_NAME.sub(r"\1", name.removeprefix("base_model.model.")))
    if match is not None:
        prefix, layer, parent, linear, outer, end = match.groups()
        if outer is None and _PARENTS.get(linear) == parent and end in _LINEAR:
            return prefix, Place(Target(int(layer), linear), _LINEAR[end])
        if outer is not None and end in _ENDS[outer]:
            return prefix, Place(Target(None, outer), _ENDS[outer][end])
    parts = name.split(".")
    for part, reason in _REASONS.items():
        if part in parts:
            raise name_invalid(name, reason)
    raise name_invalid(
        name, "belongs to no module; expected base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight and alike"
    )


def _module_names(bodies: dict[str, str], roots: dict[str, str]) -> ModuleNames:
    """`bodies` and `roots` map each prefix to the name of a tensor that has it."""
    for prefixes in (bodies, roots):
        if len(prefixes) > 1:
            first, second, *_ = prefixes.values()
            raise name_invalid(second, f"has another prefix than {first}")
    names = ModuleNames(next(iter(bodies)) if bodies else f"{next(iter(roots))}model.")
    for root, tensor in roots.items():
        if root != names.root:
            raise name_invalid(tensor, f"has a prefix that does not go with that of {next(iter(bodies.values()))}")
    return names
