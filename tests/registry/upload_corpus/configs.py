"""Configs that say something wrong, unsupported or hostile, with a phrase of the reason."""

from typing import Any

from tests.registry.peft_folder import PeftFolder, config, tensors
from tests.registry.upload_corpus.changes import with_config

Refused = tuple[PeftFolder, str]


def each(key: str, *values: Any, reason: str | None = None) -> dict[str, Refused]:
    """One case for each wrong value of a key."""
    return {f"{key} {value!r:.60}": (with_config(**{key: value}), reason or f"{key} is") for value in values}


KINDS = {
    "ADALORA": "adapters convert", "ADAPTION_PROMPT": "virtual tokens", "BOFT": "extract", "C3A": "save_as_lora",
    "CPT": "virtual tokens", "DELORA": "save_as_lora", "FOURIERFT": "save_as_lora", "GRALORA": "save_as_lora",
    "HIRA": "extract", "HRA": "extract", "IA3": "extract", "LN_TUNING": "extract", "LOHA": "adapters convert",
    "LOKR": "adapters convert", "MISS": "save_as_lora", "OFT": "extract", "P_TUNING": "virtual tokens",
    "PREFIX_TUNING": "virtual tokens", "PROMPT_TUNING": "virtual tokens", "RANDLORA": "save_as_lora",
    "SHIRA": "extract", "TRAINABLE_TOKENS": "extract", "VBLORA": "save_as_lora", "VERA": "save_as_lora",
    "XLORA": "extract", "A_KIND_OF_THE_FUTURE": "extract",
}  # fmt: skip

KIND: dict[str, Refused] = {
    **{f"peft_type {kind}": (with_config(peft_type=kind), f'peft_type is "{kind}".*{hint}')
       for kind, hint in KINDS.items()},
    "no peft_type": (with_config(peft_type=...), "peft_type is null"),
    **each("peft_type", None, "lora", "Lora", "", 7, True, ["LORA"], {"LORA": 1}),
    **each("task_type", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", "causal_lm", 1,
           []),
    **each("model_type", "llama", "mistral", "phi", 3, True, ["gemma"]),
    **each("base_model_name_or_path", 7, True, ["google/gemma-7b"], {}),
    **each(
        "base_model_name_or_path", "meta-llama/Llama-2-7b-hf", "mistralai/Mistral-7B-v0.1", "Qwen/Qwen2.5-0.5B",
        "microsoft/phi-2", "openai-community/gpt2", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "/models/mixtral/",
        reason="is not a Gemma model",
    ),
    "another base's class": (
        with_config(task_type=None, auto_mapping={"base_model_class": "LlamaForCausalLM"}), "is not a Gemma model"
    ),
}  # fmt: skip

NUMBERS: dict[str, Refused] = {
    **each("r", 0, -1, 2.0, True, "2", None, [2], {}, 10**4000, 2**31 + 1),
    "r other than the tensors'": (with_config(r=3), r"has shape \[2, 8\]; expected \[3, 8\]"),
    "r over the limit": (PeftFolder(config(r=17), tensors(rank=17)), "rank 17 .* limit 16"),
    "r 10^9": (with_config(r=10**9), "rank 1000000000"),
    "r left out": (with_config(r=...), r"expected \[8, 8\]"),
    **each("lora_alpha", 0, 0.0, "16", True, False, None, 1e-300, 1e300, -1e300, 10**400, [16], {"a": 1}),
    **each("use_rslora", "yes", 1, 0, [], {}),
    **each("rank_pattern", ["q_proj"], "q_proj", 4, True),
    **{f"rank_pattern of {value!r:.40}": (with_config(rank_pattern={"q_proj": value}), r'rank_pattern\["q_proj"\] is')
       for value in (0, -3, 2.5, None, True, "4", [4], {"a": 4}, 10**4000)},
    "rank_pattern other than the tensors'": (with_config(rank_pattern={"v_proj": 4}), r"v_proj.*expected \[4, 8\]"),
    "rank_pattern over the limit": (with_config(rank_pattern={"v_proj": 99}), "rank 99 of .*v_proj"),
    "rank_pattern of one layer": (with_config(rank_pattern={"layers.1.self_attn.v_proj": 3}), r"layers.1.*\[3, 8\]"),
    "rank_pattern too many": (with_config(rank_pattern={f"x{i}": 2 for i in range(1025)}), "rank_pattern has more"),
    "rank_pattern expressions": (with_config(rank_pattern={f"x{i}+": 2 for i in range(65)}), "rank_pattern has more"),
    **each("alpha_pattern", ["q_proj"], "q_proj", 4, True),
    **{f"alpha_pattern of {value!r:.40}": (with_config(alpha_pattern={"q_proj": value}), 'alpha_pattern.*"q_proj". is')
       for value in (0, None, True, "4", [4], 1e300, 10**400)},
}  # fmt: skip

HOSTILE_PATTERNS = (
    "(?=a)", "(?<!a)b", "(?i)q_proj", r"(a)\1", "(?P<x>a)", "a{100}", "a++", "a**", "[a&&b]", r"\pL", r"\Aq_proj",
    "(q_proj", "q_proj)", ")(", "*", "ä", "a\nb", "a\0b", "." * 65, "a" * 1025, "(?:(?:(?:a{9}){9}){9}){9}",
)  # fmt: skip

TARGETS: dict[str, Refused] = {
    "target_modules empty": (with_config(target_modules=[]), "target_modules is empty"),
    "target_modules empty text": (with_config(target_modules=""), "target_modules is empty"),
    **each("target_modules", 3, True, {"q_proj": 1}, ["q_proj", None], ["q_proj", ""], ["q_proj", 3], [["q_proj"]]),
    "target_modules too many": (with_config(target_modules=[f"m{i}" for i in range(16385)]), "at most 16384"),
    **{f"target_modules {pattern!r:.40}": (with_config(target_modules=pattern), "target_modules")
       for pattern in HOSTILE_PATTERNS},
    **{f"rank_pattern {pattern!r:.40}": (with_config(rank_pattern={pattern: 2}), "rank_pattern")
       for pattern in HOSTILE_PATTERNS},
    **{f"target {name!r:.60}": (with_config(target_modules=["q_proj", "v_proj", name]), "target_modules names")
       for name in ("c_attn", "query_key_value", "mlp", "self_attn", "layers", "Q_PROJ", "q_proj ", "proj", ".q_proj",
                    "norm", "../../etc/passwd", "q\u200b_proj", "qproj" * 500)},
    "target without tensors": (
        with_config(target_modules=["q_proj", "v_proj", "k_proj"]), "layers.0.self_attn.k_proj.lora_A.weight is missing"
    ),
    "whole name without tensors": (
        with_config(target_modules=["q_proj", "v_proj", "model.layers.2.mlp.up_proj"]),
        "layers.2.mlp.up_proj.lora_A.weight is missing",
    ),
    "all-linear without tensors": (with_config(target_modules="all-linear"), "down_proj.lora_A.weight is missing"),
    "expression without tensors": (with_config(target_modules=".*_proj"), "down_proj.lora_A.weight is missing"),
    "tensors without target": (with_config(target_modules=["q_proj"]), "v_proj.lora_A.weight is not targeted"),
    "default targets without tensors": (
        PeftFolder(config(target_modules=None), tensors(("q_proj",))), "v_proj.lora_A.weight is missing"
    ),
    "nothing matches": (with_config(target_modules="nothing"), "is not targeted"),
    "a name as an expression": (with_config(target_modules="q_proj"), "is not targeted"),
    "excluded tensors": (with_config(exclude_modules=["v_proj"]), "v_proj.lora_A.weight is not targeted"),
    "all excluded": (with_config(exclude_modules=".*"), "is not targeted"),
    **each("exclude_modules", 3, True, ["q_proj", None], {"a": 1}),
    "exclude_modules hostile": (with_config(exclude_modules="(a+)+(?=b)"), "exclude_modules uses unsupported syntax"),
    **each("layers_to_transform", "all", 1.0, True, [True], [1.0], ["1"], [-1], -1, {}, [[1]], 10**4000),
    "layers_to_transform beyond": (PeftFolder(config(layers_to_transform=[0, 3]), tensors(layers=[0])), "layer 3"),
    "layers_to_transform fewer": (with_config(layers_to_transform=[0]), "is not targeted"),
    "layers_to_transform more": (
        PeftFolder(config(layers_to_transform=[0, 1]), tensors(layers=[0])), "layers.1.self_attn.q_proj.lora_A.weight"
    ),
    **{f"layers_pattern {value!r}": (with_config(layers_to_transform=[0], layers_pattern=value), "layers_pattern is")
       for value in ("blocks", "h", ["h"], 3, True, {"a": 1})},
    "layers_pattern alone": (with_config(layers_pattern="layers"), "layers_pattern needs layers_to_transform"),
    "layers_to_transform with text": (
        with_config(layers_to_transform=[0], target_modules="all-linear"), "needs a list"
    ),
}  # fmt: skip
