"""Adapters that take full effect, as PEFT and the tools around it write them."""

import numpy as np
from tests.registry.peft_folder import BASE, PeftFolder, config, tensors
from tests.registry.upload_corpus.changes import bfloat16, renamed, with_bits, with_config, with_value

ALL = tuple(BASE.modules)
SUBSETS = (("q_proj",), ("k_proj",), ("v_proj",), ("o_proj",), ("gate_proj",), ("up_proj",), ("down_proj",),
           ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj"), ALL)  # fmt: skip


def targeting(*modules: str, **changes: object) -> PeftFolder:
    return PeftFolder(config(target_modules=list(modules), **changes), tensors(modules))


ACCEPTED: dict[str, PeftFolder] = {
    "plain": PeftFolder(),
    **{f"target {'+'.join(modules)}": targeting(*modules) for modules in SUBSETS},
    "all-linear": PeftFolder(config(target_modules="all-linear"), tensors(ALL)),
    "ALL-LINEAR": PeftFolder(config(target_modules="ALL-LINEAR"), tensors(ALL)),
    "default targets": with_config(target_modules=None),
    "targets left out": with_config(target_modules=...),
    "expression": with_config(target_modules=r".*\.(q_proj|v_proj)"),
    "expression with classes": with_config(target_modules=r"model\.layers\.\d+\.self_attn\.[qv]_proj"),
    "expression with anchors": with_config(target_modules=r"^model\.layers\..*\.(?:q|v)_proj$"),
    "qualified targets": with_config(target_modules=["self_attn.q_proj", "self_attn.v_proj"]),
    "repeated target": with_config(target_modules=["q_proj", "v_proj", "q_proj"]),
    "whole names": PeftFolder(
        config(target_modules=["model.layers.2.mlp.up_proj"]), tensors(("up_proj",), layers=[2])
    ),
    "excluded": PeftFolder(
        config(target_modules="all-linear", exclude_modules=["o_proj", "mlp.up_proj"]),
        tensors(("q_proj", "k_proj", "v_proj", "gate_proj", "down_proj")),
    ),
    "excluded by expression": PeftFolder(
        config(exclude_modules=r".*layers\.0\..*"), tensors(layers=[1, 2])
    ),
    "nothing excluded": with_config(exclude_modules=[]),
    "excluded without a match": with_config(exclude_modules=["vision_tower"]),
    "layers_to_transform": PeftFolder(
        config(layers_to_transform=[0, 2], layers_pattern="layers"), tensors(layers=[0, 2])
    ),
    "layers_pattern as a list": PeftFolder(
        config(layers_to_transform=[2], layers_pattern=["layers"]), tensors(layers=[2])
    ),
    "one layer": PeftFolder(config(layers_to_transform=1), tensors(layers=[1])),
    "no layers named": with_config(layers_to_transform=[], layers_pattern=None),
    "whole name beside layers_to_transform": PeftFolder(
        config(target_modules=["v_proj", "model.layers.1.mlp.up_proj"], layers_to_transform=[0]),
        tensors(("v_proj",), layers=[0]) | tensors(("up_proj",), layers=[1]),
    ),
    "float16": PeftFolder(tensors=tensors(dtype="float16")),
    "bfloat16": PeftFolder(tensors=bfloat16(tensors())),
    "dtypes mixed": PeftFolder(tensors=tensors(("q_proj",), dtype="float16") | tensors(("v_proj",))),
    "float16 subnormal": with_value(6e-8, "float16"),
    "float32 subnormal": with_value(1e-45),
    "minus zero": with_value(-0.0),
    "largest float16": with_value(65504, "float16"),
    "largest float32 that bfloat16 holds": with_value(3.3895e38),
    "largest bfloat16": with_bits(0x7F7F),
    "bfloat16 subnormal": with_bits(0x0001),
    "rank 1": PeftFolder(config(r=1), tensors(rank=1)),
    "highest rank": PeftFolder(config(r=16), tensors(rank=16)),
    "rank above the width": PeftFolder(config(r=13), tensors(rank=13)),
    "rank_pattern": PeftFolder(
        config(rank_pattern={"v_proj": 5}), tensors(("q_proj",)) | tensors(("v_proj",), rank=5)
    ),
    "rank_pattern by expression": PeftFolder(
        config(rank_pattern={r"layers\.[01]\..*q_proj": 3}),
        tensors(("v_proj",)) | tensors(("q_proj",), layers=[0, 1], rank=3) | tensors(("q_proj",), layers=[2]),
    ),
    "rank_pattern with an anchor": PeftFolder(
        config(rank_pattern={"^model.layers.0.self_attn.q_proj": 3}),
        tensors(layers=[1, 2]) | tensors(("v_proj",), layers=[0]) | tensors(("q_proj",), layers=[0], rank=3),
    ),
    "first of two rank_patterns": PeftFolder(
        config(rank_pattern={"q_proj": 3, "self_attn.q_proj": 4}), tensors(("v_proj",)) | tensors(("q_proj",), rank=3)
    ),
    "r that no module has": PeftFolder(config(r=4000, rank_pattern={"[qv]_proj": 2})),
    "alpha_pattern": with_config(alpha_pattern={"q_proj": 9, "layers.1.self_attn.v_proj": 1}),
    "unmatched pattern": with_config(rank_pattern={"k_proj": 7}, alpha_pattern={"lm_head": 3}),
    "rsLoRA": with_config(use_rslora=True),
    "fractional alpha": with_config(lora_alpha=0.5),
    "negative alpha": with_config(lora_alpha=-4),
    "large alpha": with_config(lora_alpha=10**6),
    "alpha in scientific notation": with_config(lora_alpha=1.6e1),
    "defaults": PeftFolder(config(r=..., lora_alpha=...), tensors(rank=8)),
    "null keys": with_config(modules_to_save=None, layer_replication=None, loftq_config={}, rank_pattern=None),
    "inactive variants": with_config(use_dora=False, lora_bias=False, use_qalora=False, use_bdlora=None, bias="none"),
    "every variant's off": with_config(
        trainable_token_indices=None, alora_invocation_tokens=None, target_parameters=None, kasa_config=None,
        velora_config=None, monteclora_config=None, arrow_config=None, megatron_config=None, fan_in_fan_out=False,
    ),
    "empty lists of variants": with_config(modules_to_save=[], target_parameters=[], layer_replication=[]),
    "inactive key of the future": with_config(use_hyper_lora=False, hyper_config={}, hyper_name="", hyper_list=[]),
    "training keys": with_config(
        lora_dropout=0.1, inference_mode=True, peft_version="0.21.2", revision="main", qalora_group_size=16,
        megatron_core="megatron.core", auto_mapping={"base_model_class": "GemmaForCausalLM"}, eva_config={"rho": 2.0},
        ensure_weight_tying=True, loftq_config={"loftq_bits": 4}, corda_config={"corda_method": "ipm"},
        lora_ga_config={"direction": "ArB2r"}, runtime_config={"ephemeral_gpu_offload": True},
    ),
    **{
        f"init_lora_weights {value}": with_config(init_lora_weights=value)
        for value in (True, False, None, "gaussian", "Gaussian", "eva", "orthogonal", "mica")
    },
    **{f"model_type {name}": with_config(model_type=name) for name in ("gemma", "gemma2", "gemma3_text", None)},
    "no task": with_config(task_type=None),
    "local base": with_config(base_model_name_or_path="/home/me/llama-factory/saves/base"),
    "another maker's Gemma": with_config(base_model_name_or_path="someone/tiny-gemma-llama-style"),
    "no base name": with_config(base_model_name_or_path=None),
    "empty base name": with_config(base_model_name_or_path=""),
    "name in another script": with_config(base_model_name_or_path="模型/基座", revision="ветка"),
    "language_model prefix": PeftFolder(tensors=tensors(prefix="base_model.model.model.language_model.")),
    "old language_model prefix": PeftFolder(tensors=tensors(prefix="base_model.model.language_model.model.")),
    "no prefix": PeftFolder(tensors=tensors(prefix="model.")),
    "bare layers": PeftFolder(tensors=tensors(prefix="")),
    "trained without a head": PeftFolder(tensors=tensors(prefix="base_model.model.")),
    "compiled": PeftFolder(tensors=tensors(prefix="base_model.model._orig_mod.model.")),
    "data parallel": PeftFolder(tensors=tensors(prefix="base_model.model.module.model.")),
    "adapter name left in": renamed(lambda name: name.replace(".weight", ".default.weight")),
    "tensors in another order": PeftFolder(tensors=dict(reversed(tensors().items()))),
    "values of one": PeftFolder(tensors={name: np.ones_like(value) for name, value in tensors().items()}),
}  # fmt: skip
