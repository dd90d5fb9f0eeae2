"""What PEFT saves that is no plain LoRA, but exactly one after a change of its factors.

Formulas: `get_delta_weight` of the layers in `peft.tuners` (PEFT 0.21). Letters: N outputs, K inputs, r rank.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlora.conversion.adapter_folder import CONFIG_FILE, WEIGHTS_FILE, read_file, require
from gemlora.conversion.lora_pairs import PREFIX, LoraPair, LoraPairs, verified_pair
from gemlora.conversion.low_rank import Factors, factors_of, hadamard, kronecker
from gemlora.engines.cpu.adapters.originals import WeightsFile
from gemlora.errors import AdapterInvalid
from gemlora.registry.peft_config import LoraConfig, read_config
from gemlora.registry.safetensors_header import TensorEntry, read_header
from gemlora.registry.strict_json import JsonInvalid, parse_object
from gemlora.registry.tensor_names import name_invalid
from gemlora.registry.unsupported import BASE_CHANGING_INITIALISATIONS, why_kind
from gemlora.storage.manifest import Tensor

Parts = Mapping[str, NDArray[Any]]
"""A module's tensors in float64, by what PEFT calls them."""

ADALORA_OFFSET = 1e-5
"""What AdaLoRA adds to the rank that it divides by."""


_LAYER = re.compile(r"\blayers\.([0-9]{1,9})\.")


@dataclass(frozen=True, slots=True)
class Saved:
    """A folder as PEFT saves it: its config, read as if it were plain LoRA's, and the tensors of every module."""

    config: LoraConfig
    modules: Mapping[str, Parts]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of adapter whose change of the weights is scale · left · right."""

    name: str
    factors: Callable[[Parts], Factors]
    change: Callable[[Parts], NDArray[Any]]
    """[N, K] without the scale, as PEFT computes it."""
    parts: frozenset[str]
    ranked: frozenset[str]
    """Parts that have as many rows as the config says is the rank."""
    training_keys: frozenset[str]
    """Keys of its config that matter only while it is trained."""


def convert_peft(folder: Path, initial: Path | None) -> LoraPairs:
    """The adapter of a folder as plain LoRA; `initial` is the same one as it was before its training.

    Raises `AdapterInvalid` with the reason if it cannot be one, or is one already.
    """
    document = _document(folder)
    kind = str(document.get("peft_type"))
    if kind == "LORA":
        return _without_initial(folder, document, initial)
    if kind not in KINDS:
        raise AdapterInvalid(f"{CONFIG_FILE}: peft_type is {kind!r}; {why_kind(kind)}")
    return _convert(folder, document, KINDS[kind])


def _convert(folder: Path, document: dict[str, Any], kind: Kind) -> LoraPairs:
    saved = _read(folder, _as_lora(document, kind), kind.parts, kind.ranked)
    adaptive = kind is KINDS["ADALORA"]
    pairs: dict[str, LoraPair] = {}
    errors = []
    for name, parts in saved.modules.items():
        scale = saved.config.scale_of(name)
        if adaptive:
            scale *= saved.config.rank / (saved.config.rank + ADALORA_OFFSET)
        try:
            factors, change = kind.factors(parts), kind.change(parts)
        except (KeyError, ValueError) as error:
            raise AdapterInvalid(f"{name}: its {kind.name} tensors do not go together: {error}") from error
        pairs[name], error_ = verified_pair(name, factors, scale, change)
        errors.append(error_)
    return LoraPairs(kind.name, pairs, saved.config.base_name, max(errors))


def _without_initial(folder: Path, document: dict[str, Any], initial: Path | None) -> LoraPairs:
    """W − s·B₀A₀ + s·BA as a pair beside W: [B, −B₀] and [A; A₀], of twice the rank."""
    initialisation = document.get("init_lora_weights")
    changing = isinstance(initialisation, str) and initialisation.lower().startswith(BASE_CHANGING_INITIALISATIONS)
    if not changing:
        raise AdapterInvalid(f"{folder} is LoRA or DoRA already: add it as it is, with gemlora adapters add")
    if initial is None:
        raise AdapterInvalid(
            f"{CONFIG_FILE}: init_lora_weights {initialisation!r} changed the base weights; what it took from them is "
            "in the adapter as it was before training: name its folder with --initial"
        )
    if document.get("use_dora"):
        raise AdapterInvalid(f"{CONFIG_FILE}: use_dora: DoRA's norms would be those of other base weights")
    trained, begun = (_read(each, _plain(_document(each)), LORA_PARTS, LORA_RANKED) for each in (folder, initial))
    if trained.modules.keys() != begun.modules.keys():
        raise AdapterInvalid(f"{folder} and {initial} do not change the same modules")
    pairs: dict[str, LoraPair] = {}
    errors = []
    for name, parts in trained.modules.items():
        scale, first = trained.config.scale_of(name), begun.modules[name]
        ratio = begun.config.scale_of(name) / scale
        b, a = parts["lora_B.weight"], parts["lora_A.weight"]
        b0, a0 = ratio * first["lora_B.weight"], first["lora_A.weight"]
        if a.shape[1] != a0.shape[1] or b.shape[0] != b0.shape[0]:
            raise AdapterInvalid(f"{name}: {folder} and {initial} differ in its shape")
        factors = Factors(np.hstack([b, -b0]), np.vstack([a, a0]))
        pairs[name], error = verified_pair(name, factors, scale, b @ a - b0 @ a0)
        errors.append(error)
    return LoraPairs(str(initialisation), pairs, trained.config.base_name, max(errors))


def _document(folder: Path) -> dict[str, Any]:
    try:
        return parse_object(read_file(folder / CONFIG_FILE))
    except JsonInvalid as error:
        raise AdapterInvalid(f"{CONFIG_FILE} {error}") from None


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"init_lora_weights": True}


def _as_lora(document: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """The config in plain LoRA's words, so that the registry reads its ranks, scales and what it does not know."""
    kept = {key: value for key, value in document.items() if key not in kind.training_keys}
    kept |= {"peft_type": "LORA", "lora_alpha": kept.pop("alpha", kept.get("lora_alpha", 8))}
    if kind is not KINDS["ADALORA"]:
        return kept
    rank = document.get("init_r", 12)
    kept.pop("rank_pattern", None)  # of what is left of the ranks, which the shapes say
    return kept | {"r": rank, "lora_alpha": kept["lora_alpha"] if kept["lora_alpha"] > 0 else rank}


def _read(folder: Path, document: dict[str, Any], known: frozenset[str], ranked: frozenset[str]) -> Saved:
    config = read_config(json.dumps(document).encode())
    path = folder / WEIGHTS_FILE
    require(path)
    modules: dict[str, dict[str, NDArray[Any]]] = {}
    with path.open("rb") as file:
        weights = WeightsFile(file)
        for entry in read_header(path):
            module, part = _split(entry.name, known)
            _check(entry, module, config, has_rank=part in ranked)
            tensor = Tensor(entry.name, entry.dtype, entry.shape, entry.offset, entry.size)
            modules.setdefault(module, {})[part] = weights.read(tensor).astype(np.float64)
    if not modules:
        raise AdapterInvalid(f"{path} holds no tensor")
    return Saved(config, modules)


def _check(entry: TensorEntry, module: str, config: LoraConfig, *, has_rank: bool) -> None:
    """PEFT would leave out a module that the config does not target, and not load a rank that it does not say."""
    layer = _LAYER.search(module)
    if not config.covers(module, None if layer is None else int(layer[1])):
        raise name_invalid(entry.name, f"is not targeted by {CONFIG_FILE}")
    if has_rank and entry.shape[0] != config.rank_of(module):
        raise name_invalid(entry.name, f"has rank {entry.shape[0]}; {CONFIG_FILE} says {config.rank_of(module)}")


def _split(name: str, known: frozenset[str]) -> tuple[str, str]:
    """A tensor's module and part."""
    for part in known:
        if name.endswith(f".{part}"):
            return name.removeprefix(PREFIX).removesuffix(f".{part}"), part
    raise name_invalid(name, f"is none of {', '.join(sorted(known))}")


def _kronecker_part(parts: Parts, name: str) -> Factors:
    """w1 or w2: a whole matrix, or two factors of it."""
    if name in parts:
        return factors_of(parts[name])
    factors = Factors(parts[f"{name}_a"], parts[f"{name}_b"])
    return factors if factors.rank <= min(len(factors.left), factors.right.shape[1]) else factors_of(factors.product)


def _kronecker_matrix(parts: Parts, name: str) -> NDArray[Any]:
    whole: NDArray[Any] = parts[name] if name in parts else parts[f"{name}_a"] @ parts[f"{name}_b"]
    return whole


def _hadamard_parts(parts: Parts) -> tuple[Factors, Factors]:
    return (
        Factors(parts["hada_w1_a"], parts["hada_w1_b"]),
        Factors(parts["hada_w2_a"], parts["hada_w2_b"]),
    )


_DROPOUTS = frozenset({"rank_dropout", "module_dropout", "use_effective_conv2d", "init_weights"})

LORA_PARTS = frozenset({"lora_A.weight", "lora_B.weight"})
LORA_RANKED = frozenset({"lora_A.weight"})

KINDS: Mapping[str, Kind] = {
    "LOKR": Kind(
        "LoKr",
        lambda parts: kronecker(_kronecker_part(parts, "lokr_w1"), _kronecker_part(parts, "lokr_w2")),
        lambda parts: np.kron(_kronecker_matrix(parts, "lokr_w1"), _kronecker_matrix(parts, "lokr_w2")),
        frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"}),
        frozenset({"lokr_w1_b", "lokr_w2_b"}),
        _DROPOUTS | {"decompose_both", "decompose_factor", "rank_dropout_scale"},
    ),
    "LOHA": Kind(
        "LoHa",
        lambda parts: hadamard(*_hadamard_parts(parts)),
        lambda parts: np.multiply(*(factors.product for factors in _hadamard_parts(parts))),
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
        frozenset({"hada_w1_b", "hada_w2_b"}),
        _DROPOUTS,
    ),
    "ADALORA": Kind(
        "AdaLoRA",
        lambda parts: Factors(parts["lora_B"] * parts["lora_E"].T, parts["lora_A"]),
        lambda parts: parts["lora_B"] @ (parts["lora_A"] * parts["lora_E"]),
        frozenset({"lora_A", "lora_B", "lora_E"}),
        frozenset(),
        frozenset({
            "target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step",
        }),
    ),
}  # fmt: skip
"""By PEFT's name of the kind."""
