"""What PEFT 0.21 can train and this server does not compute: each refused by its name, with a way to convert it.

A reason ends in what its owner can do, because the training is usually over when the adapter is refused.
"""

import re
from typing import Any

CONVERTIBLE_KINDS = frozenset({
    "C3A", "DELORA", "FOURIERFT", "GRALORA", "MISS", "PSOFT", "RANDLORA", "TINYLORA", "UNILORA",
    "VBLORA", "VERA", "WAVEFT",
})  # fmt: skip
"""Kinds whose layers PEFT's `save_as_lora` turns into plain LoRA."""

KINDS_WITHOUT_WEIGHTS = frozenset({
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE",
})  # fmt: skip
"""Kinds that add virtual tokens or attention inputs instead of changing weights."""

EXACT_KINDS = frozenset({"ADALORA", "LOHA", "LOKR"})
"""Kinds that are plain LoRA after a change of their factors: `gemlora adapters convert`."""

SAVE_AS_LORA = "convert it with peft.save_as_lora(path, model, rank=...)"
CONVERT = "convert it with gemlora adapters convert"
MERGE = "merge it into its base and extract a plain LoRA from the difference to the original weights"
TRAIN_PLAIN = "train plain LoRA instead"

REFUSED_KEYS = {
    "modules_to_save": f"whole replaced modules are not supported; {MERGE}, or train with target_modules instead",
    "lora_bias": "biases beside B are not supported; train without lora_bias",
    "fan_in_fan_out": "Gemma's linear modules are not transposed, and PEFT ignores it there: set it to false",
    "layer_replication": f"replicated layers need another base model; {TRAIN_PLAIN}",
    "megatron_config": "Megatron's parallel layers are not supported; save the adapter from an unsharded model",
    "trainable_token_indices": f"trained tokens are not supported; {MERGE}, or train LoRA on embed_tokens",
    "alora_invocation_tokens": f"activated LoRA (aLoRA) changes only part of the prompt; {TRAIN_PLAIN}",
    "target_parameters": "Gemma's weights all belong to modules; name them in target_modules",
    "use_qalora": f"QA-LoRA pools its inputs; {MERGE}",
    "kasa_config": f"KaSA changes the base weights; {MERGE}",
    "use_bdlora": f"block-diagonal LoRA is not supported; {MERGE}",
    "velora_config": f"VeLoRA saves projections beside A and B; {SAVE_AS_LORA}",
    "monteclora_config": f"MonteCLoRA samples its weights; {TRAIN_PLAIN}",
    "arrow_config": "Arrow routes between adapters; upload its adapters one by one",
}
"""Keys of a LoRA config that change what is computed when they are active."""

SUBCONFIGS = frozenset({"kasa_config", "use_bdlora", "velora_config", "monteclora_config", "arrow_config"})
"""Keys whose empty object is not off: PEFT fills in its defaults."""

HARMLESS_INITIALISATIONS = ("gaussian", "eva", "orthogonal", "mica")
"""Ways to begin that leave the base weights alone; what was trained is in A and B."""

BASE_CHANGING_INITIALISATIONS = ("pissa", "olora", "corda", "lora_ga")
"""Ways to begin that move part of the base weights into A and B, and that PEFT can convert back."""

CONVERT_INITIALISATION = (
    f"changed the base weights at training; {CONVERT} --initial FOLDER, or with PEFT's "
    "save_pretrained(path, path_initial_model_for_weight_conversion=...)"
)
LOFTQ = f"trained on base weights that it had quantised; {MERGE}"

_OTHER_FAMILIES = re.compile(
    "(?<![a-z])(?:codellama|tinyllama|llama|vicuna|mistral|mixtral|qwen|phi|gpt|falcon|bloom|pythia|deepseek|starcoder"
    "|stablelm|olmo|baichuan|internlm|chatglm|roberta|bert|mamba|rwkv)(?![a-z])|^(?:llama|mistral|qwen|phi|gpt)"
    "[a-z0-9]*for[a-z]+$"
)
"""Base models that are not Gemma: words of their names, and PyTorch's classes such as LlamaForCausalLM."""


def why_kind(kind: str) -> str:
    """Why a `peft_type` other than LORA is refused."""
    if kind in EXACT_KINDS:
        return f"only LoRA is supported; {CONVERT}"
    if kind in CONVERTIBLE_KINDS:
        return f"only LoRA is supported; {SAVE_AS_LORA}"
    if kind in KINDS_WITHOUT_WEIGHTS:
        return f"only LoRA is supported, and virtual tokens cannot become one; {TRAIN_PLAIN}"
    return f"only LoRA is supported; {MERGE}"


def why_initialisation(value: Any) -> str | None:
    """Why a value of `init_lora_weights` is refused; None if it leaves the base weights alone."""
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, str):
        return "is not true, false or a name"
    name = value.lower()
    if name in HARMLESS_INITIALISATIONS:
        return None
    if name == "loftq":
        return LOFTQ
    return CONVERT_INITIALISATION if name.startswith(BASE_CHANGING_INITIALISATIONS) else "is not known here"


def is_other_family(name: str) -> bool:
    """Whether the name of a base model or of its class says that it is not a Gemma model."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return "gemma" not in name.lower() and _OTHER_FAMILIES.search(last) is not None
