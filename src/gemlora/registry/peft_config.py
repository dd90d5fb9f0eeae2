"""PEFT's `adapter_config.json`: what it means for each linear module, with PEFT's own matching rules.

Source: `LoraConfig`, `check_target_module_exists` and `get_pattern_key` of PEFT 0.21. Every key is either understood
or known to have no effect on inference; a key that is neither is refused by name when it is active.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gemlora.errors import AdapterInvalid
from gemlora.registry.patterns import Matcher, PatternInvalid, is_plain, suffix_matcher, whole_matcher
from gemlora.registry.strict_json import JsonInvalid, parse_object, shown
from gemlora.registry.unsupported import REFUSED_KEYS, SUBCONFIGS, is_other_family, why_initialisation, why_kind

DEFAULT_RANK = 8
DEFAULT_ALPHA = 8
DEFAULT_TARGETS = ("q_proj", "v_proj")
"""What PEFT takes for Gemma when `target_modules` is null."""
EMBEDDINGS = ("embed_tokens", "lm_head")
MAX_NUMBER = 1 << 31
MAX_NAMES = 16384
"""Of modules, in one list."""
MAX_PATTERNS = 1024
MAX_EXPRESSIONS = 64
"""Of the patterns, how many may be more than plain names."""

_UNDERSTOOD = {
    "peft_type", "task_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights", "bias", "model_type",
    "base_model_name_or_path", "auto_mapping", "use_dora", "ensure_weight_tying",
}  # fmt: skip

_WITHOUT_EFFECT = {
    "peft_version", "revision", "inference_mode", "lora_dropout", "megatron_core", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config",
}  # fmt: skip
"""Keys about training, or that matter only together with a key that is refused."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of the config that decides what an adapter computes.

    Module names are those that PEFT saw, for example `model.layers.3.self_attn.q_proj`.
    """

    rank: int
    alpha: float
    rslora: bool
    dora: bool
    ranks: tuple[tuple[Matcher, int], ...]
    alphas: tuple[tuple[Matcher, float], ...]
    targets: frozenset[str] | Matcher | None
    """Names, a pattern, or None for all linear modules but the head."""
    excluded: frozenset[str] | Matcher
    layers: frozenset[int] | None
    """Layers that `layers_to_transform` selects; None is all."""
    tying: bool
    """`ensure_weight_tying`: whether a pair on the embedding is meant for a head with the same weights too."""
    base_name: str | None

    @property
    def ties_embedding(self) -> bool:
        """Whether PEFT puts one pair on the embedding and on a head that is tied to it."""
        if not self.tying or self.targets is None:
            return False
        if isinstance(self.targets, frozenset):
            return any(target.rsplit(".", 1)[-1] in EMBEDDINGS for target in self.targets)
        return any(map(self.targets, EMBEDDINGS))

    def covers(self, name: str, layer: int | None) -> bool:
        """Whether PEFT puts a LoRA pair on this module; `layer` is None for the embedding and the head."""
        if _listed(name, self.excluded) if isinstance(self.excluded, frozenset) else self.excluded(name):
            return False
        if self.targets is None:
            return layer is not None
        if not isinstance(self.targets, frozenset):
            return self.targets(name)
        if name in self.targets:
            return True
        return _listed(name, self.targets) and (self.layers is None or layer in self.layers)

    def rank_of(self, name: str) -> int:
        """r of this module: the first pattern that matches, else the common one."""
        return next((rank for matches, rank in self.ranks if matches(name)), self.rank)

    def scale_of(self, name: str) -> float:
        """alpha / r of this module, or alpha / sqrt(r)."""
        alpha = next((alpha for matches, alpha in self.alphas if matches(name)), self.alpha)
        rank = self.rank_of(name)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def has_ambiguous_alpha(self, name: str) -> bool:
        """Whether patterns with different numbers match: PEFT sorts them when saving, so training may differ."""
        return len({alpha for matches, alpha in self.alphas if matches(name)}) > 1


def read_config(content: bytes) -> LoraConfig:
    """Read `adapter_config.json`. Raises `AdapterInvalid` with the key and what was expected."""
    try:
        config = parse_object(content)
    except JsonInvalid as error:
        raise AdapterInvalid(f"adapter_config.json {error}") from None
    _check_kind(config)
    _check_variants(config)
    return LoraConfig(
        rank=_rank(config.get("r", DEFAULT_RANK), "r"),
        alpha=_alpha(config.get("lora_alpha", DEFAULT_ALPHA), "lora_alpha"),
        rslora=_flag(config, "use_rslora"),
        dora=_flag(config, "use_dora"),
        ranks=tuple((m, _rank(value, key)) for m, key, value in _patterns(config, "rank_pattern")),
        alphas=tuple((m, _alpha(value, key)) for m, key, value in _patterns(config, "alpha_pattern")),
        targets=_targets(config),
        excluded=_names_or_pattern(config, "exclude_modules") or frozenset(),
        layers=_layers(config),
        tying=_flag(config, "ensure_weight_tying"),
        base_name=_base_name(config),
    )


def _check_kind(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        why = f"; {why_kind(kind)}" if isinstance(kind, str) else ""
        raise _invalid("peft_type", f'is {shown(kind)}; expected "LORA"{why}')
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise _invalid("task_type", f'is {shown(task)}; expected "CAUSAL_LM"')
    family = config.get("model_type")
    if family is not None and not (isinstance(family, str) and family.startswith("gemma")):
        raise _invalid("model_type", f"is {shown(family)}; expected a Gemma model")
    initialisation = config.get("init_lora_weights")
    if refusal := why_initialisation(initialisation):
        raise _invalid("init_lora_weights", f"{shown(initialisation)} {refusal}")


def _check_variants(config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key in _UNDERSTOOD or key in _WITHOUT_EFFECT or _is_off(key, value):
            continue
        if key in REFUSED_KEYS:
            raise _invalid(key, REFUSED_KEYS[key])
        raise _invalid(
            shown(key), f"is not known here and active ({shown(value)}), so it would be ignored; remove it if it may be"
        )
    if config.get("bias", "none") != "none":
        raise _invalid(
            "bias", f'is {shown(config["bias"])}; expected "none": Gemma has no biases, so nothing but this key changes'
        )


def _is_off(key: str, value: Any) -> bool:
    if isinstance(value, dict) and key in SUBCONFIGS:
        return False
    return value is None or value is False or (isinstance(value, (str, list, dict)) and not value)


def _targets(config: Mapping[str, Any]) -> frozenset[str] | Matcher | None:
    targets = config.get("target_modules")
    if targets is None:
        return frozenset(DEFAULT_TARGETS)
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return None
    chosen = _names_or_pattern(config, "target_modules")
    if not chosen:
        raise _invalid("target_modules", "is empty; expected names of linear modules")
    return chosen


def _names_or_pattern(config: Mapping[str, Any], key: str) -> frozenset[str] | Matcher | None:
    value = config.get(key)
    if value is None or value in ("", []):
        return None
    if isinstance(value, str):
        try:
            return whole_matcher(value)
        except PatternInvalid as error:
            raise _invalid(key, f"{error}; give a list of module names instead") from None
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise _invalid(key, f"is {shown(value)}; expected a list of module names")
    if len(value) > MAX_NAMES:
        raise _invalid(key, f"has {len(value)} names; at most {MAX_NAMES} are allowed")
    return frozenset(value)


def _layers(config: Mapping[str, Any]) -> frozenset[int] | None:
    value = config.get("layers_to_transform")
    if value is None or value == []:
        if config.get("layers_pattern"):
            raise _invalid("layers_pattern", "needs layers_to_transform")
        return None
    layers = value if isinstance(value, list) else [value]
    if not all(type(layer) is int and 0 <= layer <= MAX_NUMBER for layer in layers):
        raise _invalid("layers_to_transform", f"is {shown(value)}; expected layer numbers")
    if config.get("layers_pattern") not in (None, "", [], "layers", ["layers"]):
        raise _invalid("layers_pattern", f'is {shown(config["layers_pattern"])}; expected "layers"')
    if isinstance(config.get("target_modules"), str):
        raise _invalid("layers_to_transform", "needs a list in target_modules")
    return frozenset(layers)


def _patterns(config: Mapping[str, Any], key: str) -> list[tuple[Matcher, str, Any]]:
    value = config.get(key)
    if value is None:
        return []
    if not isinstance(value, dict):
        raise _invalid(key, f"is {shown(value)}; expected an object of module names and numbers")
    if len(value) > MAX_PATTERNS or sum(not is_plain(pattern) for pattern in value) > MAX_EXPRESSIONS:
        raise _invalid(key, f"has more than {MAX_PATTERNS} patterns, or {MAX_EXPRESSIONS} that are not plain names")
    result = []
    for pattern, number in value.items():
        try:
            result.append((suffix_matcher(pattern), f"{key}[{shown(pattern)}]", number))
        except PatternInvalid as error:
            raise _invalid(f"{key}[{shown(pattern)}]", str(error)) from None
    return result


def _rank(value: Any, key: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_NUMBER:
        raise _invalid(key, f"is {shown(value)}; expected a positive integer")
    return value


def _alpha(value: Any, key: str) -> float:
    if value == 0 and not isinstance(value, bool):
        raise _invalid(key, "is 0, so the adapter would have no effect")
    if type(value) not in (int, float) or not 1e-20 < abs(value) < 1e20:
        raise _invalid(key, f"is {shown(value)}; expected a number that float32 can hold")
    return float(value)


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _invalid(key, f"is {shown(value)}; expected true or false")


def _base_name(config: Mapping[str, Any]) -> str | None:
    name = config.get("base_model_name_or_path")
    if name is not None and not isinstance(name, str):
        raise _invalid("base_model_name_or_path", f"is {shown(name)}; expected a text")
    if name and is_other_family(name):
        raise _invalid("base_model_name_or_path", f"is {shown(name)}, which is not a Gemma model")
    mapping = config.get("auto_mapping")
    model_class = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if isinstance(model_class, str) and is_other_family(model_class):
        raise _invalid("auto_mapping", f"names {shown(model_class)}, which is not a Gemma model")
    return name or None


def _listed(name: str, entries: frozenset[str]) -> bool:
    """Whether the name, or what stands behind one of its dots, is among the entries."""
    return not entries.isdisjoint(suffixes(name))


def suffixes(name: str) -> Iterator[str]:
    """The name, and what stands behind each of its dots."""
    yield name
    while "." in name:
        name = name.split(".", 1)[1]
        yield name


def _invalid(key: str, reason: str) -> AdapterInvalid:
    return AdapterInvalid(f"adapter_config.json: {key} {reason}")
