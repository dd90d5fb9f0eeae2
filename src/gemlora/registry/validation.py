"""Whether a PEFT adapter takes full effect on the served base, and the manifest of one that does.

Accepted means: every tensor of the file is used, every module that the config targets has all its tensors, all shapes
fit, all values are finite. Anything else is refused with the name of the tensor or key.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from gemlora.errors import AdapterInvalid
from gemlora.registry.models import MODULES, AdapterLimits, Base
from gemlora.registry.peft_config import LoraConfig, read_config, suffixes
from gemlora.registry.safetensors_header import TensorEntry, read_header
from gemlora.registry.strict_json import shown
from gemlora.registry.tensor_names import EMBEDDING, HEAD, ModuleNames, Part, Place, Target, claim, name_invalid
from gemlora.storage.manifest import AdapterManifest, BaseCopy, EmbeddingLora, HeadLora, LoraModule, Tensor
from gemlora.storage.objects import digest_of

__all__ = ["CheckedAdapter", "check_adapter", "fit_adapter", "read_config"]

TARGETS = (*MODULES, EMBEDDING, HEAD)
"""The modules that an adapter may change."""


@dataclass(frozen=True, slots=True)
class CheckedAdapter:
    """An accepted adapter."""

    manifest: AdapterManifest
    rank: int
    """Highest rank of any module."""
    modules: tuple[str, ...]
    """Names of the modules that it changes."""
    warnings: tuple[str, ...]


class _Pair(TypedDict):
    """What every kind of pair in a manifest has."""

    rank: int
    scale: float
    a: Tensor
    b: Tensor
    magnitude: Tensor | None


def check_adapter(
    config: LoraConfig, weights: Path, base: Base, limits: AdapterLimits, weights_digest: str | None = None
) -> CheckedAdapter:
    """Check an adapter against the served base.

    `weights_digest` is the file's SHA-256 where it is known already. Raises `AdapterInvalid` with the tensor's or
    key's name and what was expected.
    """
    checked = fit_adapter(config, weights, base, limits, weights_digest or digest_of(weights))
    manifest = checked.manifest
    # Only here: the server starts without NumPy.
    from gemlora.registry.tensor_values import check_tied, check_values

    silent, pairs = check_values(weights, manifest)
    if config.ties_embedding and base.tied and manifest.embedding is not None and manifest.head is not None:
        check_tied(weights, manifest.embedding, manifest.head)
    return replace(checked, warnings=(*_silence(silent, pairs), *checked.warnings))


def fit_adapter(
    config: LoraConfig, weights: Path, base: Base, limits: AdapterLimits, weights_digest: str
) -> CheckedAdapter:
    """Check everything but the tensors' values, which do not depend on the base. Raises `AdapterInvalid`."""
    places, names = claim(read_header(weights))
    fit = _Fit(config, places, names, base, limits)
    fit.check_layers()
    targets = fit.targets()
    fit.check_complete(targets)
    pairs = {target: fit.pair(target) for target in targets}
    copies = tuple(fit.copies())
    embedding, head = pairs.get(Target(None, EMBEDDING)), pairs.get(Target(None, HEAD))
    manifest = AdapterManifest(
        weights_digest,
        tuple(
            LoraModule(target.layer, target.module, **pair)
            for target, pair in pairs.items()
            if target.layer is not None
        ),
        None if embedding is None else EmbeddingLora(**embedding),
        None if head is None else HeadLora(**head),
        copies,
    )
    return CheckedAdapter(
        manifest,
        rank=max(pair["rank"] for pair in pairs.values()),
        modules=tuple(module for module in TARGETS if any(target.module == module for target in pairs)),
        warnings=tuple(_warnings(config, base, names, targets)),
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """One adapter beside one base."""

    config: LoraConfig
    places: dict[Place, TensorEntry]
    names: ModuleNames
    base: Base
    limits: AdapterLimits

    def check_layers(self) -> None:
        """Neither tensors nor the config may name layers that the base lacks."""
        count = self.base.layers
        for place, tensor in self.places.items():
            if place.target.layer is not None and place.target.layer >= count:
                raise name_invalid(tensor.name, f"the served base {self.base.name} has only {count} layers")
        if self.config.layers is not None and max(self.config.layers) >= count:
            raise AdapterInvalid(
                f"adapter_config.json: layers_to_transform names layer {max(self.config.layers)}; "
                f"the served base {self.base.name} has {count} layers"
            )

    def targets(self) -> tuple[Target, ...]:
        """The modules that PEFT would change with this config on this base, in the order of the manifest."""
        layers = (Target(layer, module) for layer in range(self.base.layers) for module in sorted(MODULES))
        outer = (Target(None, module) for module in (EMBEDDING, HEAD))
        tied = self.config.ties_embedding and self.base.tied
        return (
            *(target for target in layers if self.config.covers(self.names.of(target), target.layer)),
            *(target for target in outer if tied or self.config.covers(self.names.of(target), None)),
        )

    def check_complete(self, targets: tuple[Target, ...]) -> None:
        """Every tensor belongs to a target, and every target has its tensors."""
        parts = (Part.A, Part.B, Part.MAGNITUDE) if self.config.dora else (Part.A, Part.B)
        chosen = set(targets)
        for place, tensor in self.places.items():
            if place.part is Part.COPY:
                continue
            if place.target not in chosen:
                raise name_invalid(tensor.name, "is not targeted by adapter_config.json")
            if place.part not in parts:
                raise name_invalid(tensor.name, "is DoRA's, but use_dora in adapter_config.json is not true")
        for place in (Place(target, part) for target in targets for part in parts):
            if place not in self.places:
                raise name_invalid(
                    self.names.tensor(place), "is missing, though adapter_config.json targets the module"
                )
        if not targets:
            raise AdapterInvalid("adapter_config.json: target_modules selects no module of the served base")
        if isinstance(self.config.targets, frozenset):
            self._check_names(self.config.targets)

    def pair(self, target: Target) -> _Pair:
        """The tensors of one module, their shapes checked."""
        name = self.names.of(target)
        rank = self.config.rank_of(name)
        if rank > self.limits.max_rank:
            raise AdapterInvalid(
                f"adapter_config.json: rank {rank} of {name} is higher than the limit {self.limits.max_rank}"
            )
        outputs, inputs = self._shape(target)
        return {
            "rank": rank,
            "scale": self.config.scale_of(name),
            "a": self._tensor(Place(target, Part.A), (rank, inputs)),
            "b": self._tensor(Place(target, Part.B), (outputs, rank)),
            "magnitude": self._tensor(Place(target, Part.MAGNITUDE), (outputs,)) if self.config.dora else None,
        }

    def copies(self) -> Iterator[BaseCopy]:
        """The base's own weights among the tensors; the engine compares them with those that it serves."""
        for place in self.places:
            if place.part is Part.COPY:
                shape = (self.base.vocabulary, self.base.hidden)
                yield BaseCopy(place.target.module, self._tensor(place, shape))

    def _shape(self, target: Target) -> tuple[int, int]:
        """Outputs and inputs of a module."""
        if target.layer is not None:
            return self.base.modules[target.module]
        vocabulary, hidden = self.base.vocabulary, self.base.hidden
        return (vocabulary, hidden) if target.module == HEAD else (hidden, vocabulary)

    def _tensor(self, place: Place, shape: tuple[int, ...]) -> Tensor:
        entry = self.places[place]
        if entry.shape != shape:
            raise name_invalid(
                entry.name,
                f"has shape {list(entry.shape)}; expected {list(shape)} for the served base {self.base.name}",
            )
        return Tensor(entry.name, entry.dtype, shape, entry.offset, entry.size)

    def _check_names(self, targets: frozenset[str]) -> None:
        modules = [Target(layer, module) for layer in range(self.base.layers) for module in MODULES]
        modules += [Target(None, EMBEDDING), Target(None, HEAD)]
        known = {suffix for module in modules for suffix in suffixes(self.names.of(module))}
        if unknown := sorted(targets - known):
            raise AdapterInvalid(
                f"adapter_config.json: target_modules names {shown(unknown[0])}, which is no module of the served "
                f"base {self.base.name}; expected names among {', '.join(TARGETS)}"
            )


def _silence(silent: int, pairs: int) -> tuple[str, ...]:
    if silent == pairs:
        return ("the adapter has no effect: A or B is zero in every module",)
    return (f"{silent} of {pairs} modules have no effect: their A or B is zero",) if silent else ()


def _warnings(config: LoraConfig, base: Base, names: ModuleNames, targets: Iterable[Target]) -> Iterator[str]:
    for name in map(names.of, targets):
        if config.has_ambiguous_alpha(name):
            yield f"several patterns in alpha_pattern match {name}; as in PEFT the first one in the file decides"
            break
    trained_on = config.base_name
    if trained_on is not None and "gemma" in trained_on.lower() and _plain(base.name) not in _plain(trained_on):
        yield f"the adapter was trained on {shown(trained_on)}; its shapes fit the served base {base.name}"


def _plain(name: str) -> str:
    return "".join(character for character in name.rsplit("/", 1)[-1].lower() if character.isalnum())
