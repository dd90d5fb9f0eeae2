"""Tensors that are wrong, missing or too many."""

import numpy as np
from tests.registry.peft_folder import PeftFolder, config, tensor_name, tensors
from tests.registry.upload_corpus.changes import ODD, Q1A, Q1B, put, renamed, with_bits, with_value, without
from tests.registry.upload_corpus.configs import Refused

ATTENTION = "base_model.model.model.layers.0.self_attn"
STRAYS = {
    "layer 01": "base_model.model.model.layers.01.self_attn.q_proj.lora_A.weight",
    "layer -1": "base_model.model.model.layers.-1.self_attn.q_proj.lora_A.weight",
    "layer without a number": "base_model.model.model.layers.self_attn.q_proj.lora_A.weight",
    "layer of 400 digits": f"model.layers.{'9' * 400}.self_attn.q_proj.lora_A.weight",
    "wrong parent": "base_model.model.model.layers.0.mlp.q_proj.lora_A.weight",
    "other parent": "base_model.model.model.layers.0.self_attn.up_proj.lora_A.weight",
    "unknown module": f"{ATTENTION}.qkv_proj.lora_A.weight",
    "module in upper case": f"{ATTENTION}.Q_PROJ.lora_A.weight",
    "side C": f"{ATTENTION}.q_proj.lora_C.weight",
    "side in lower case": f"{ATTENTION}.q_proj.lora_a.weight",
    "no weight": f"{ATTENTION}.q_proj.lora_A",
    "weight twice": f"{ATTENTION}.q_proj.lora_A.weight.weight",
    "name within": f"{ATTENTION}.q_proj.base_layer.lora_A.weight",
    "something": "something",
    "dots": "...",
    "base weight": "model.layers.0.self_attn.q_proj.weight",
    "whole base weight": f"{ATTENTION}.q_proj.base_layer.weight",
    "another adapter's name": f"{ATTENTION}.q_proj.lora_A.other.weight",
    "two adapter names": f"{ATTENTION}.q_proj.lora_A.default.default.weight",
    "another family": "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
    "experts": "base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight",
    "norm": "base_model.model.model.layers.0.input_layernorm.lora_A.weight",
    "unknown wrapper": "base_model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
    "diffusers": "unet.down_blocks.0.to_q.lora_A.weight",
    "LoKr factor": f"{ATTENTION}.q_proj.lokr_w1",
    "LoHa factor": f"{ATTENTION}.q_proj.hada_w1_a",
    "VeRA vector": f"{ATTENTION}.q_proj.vera_lambda_b",
    "AdaLoRA's E": f"{ATTENTION}.q_proj.lora_E",
    "ranknum": f"{ATTENTION}.q_proj.ranknum",
    "KaSA diagonal": f"{ATTENTION}.q_proj.lora_diag",
    "VeLoRA projection": f"{ATTENTION}.q_proj.lora_velora_embed",
    "prompt embeddings": "prompt_embeddings",
    "optimizer state": "optimizer.state.exp_avg",
}
KNOWN_STRAYS = {
    "vision tower": ("base_model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight", "vision tower"),
    "projector": ("base_model.model.multi_modal_projector.linear.lora_A.weight", "vision tower"),
    "lora_B bias": (f"{ATTENTION}.q_proj.lora_B.bias", "biases"),
    "base bias": (f"{ATTENTION}.q_proj.bias", "biases"),
    "saved module": ("base_model.model.modules_to_save.embed_tokens.weight", "whole replaced modules"),
    "token indices": ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "trained tokens"),
}
SHAPES = {
    "A transposed": (Q1A, (8, 2)), "A of rank 1": (Q1A, (1, 8)), "A of rank 3": (Q1A, (3, 8)),
    "A too narrow": (Q1A, (2, 7)), "A of another base": (Q1A, (2, 16)), "A as a vector": (Q1A, (16,)),
    "A as a number": (Q1A, ()), "A in three dimensions": (Q1A, (2, 8, 1)), "A in eight": (Q1A, (1,) * 6 + (2, 8)),
    "B transposed": (Q1B, (2, 12)), "B of another base": (Q1B, (16, 2)), "B of rank 3": (Q1B, (12, 3)),
    "B as a vector": (Q1B, (24,)), "B too tall": (Q1B, (13, 2)), "B too short": (Q1B, (11, 2)),
}  # fmt: skip


def swapped() -> PeftFolder:
    values = tensors()
    values[Q1A], values[Q1B] = values[Q1B], values[Q1A]
    return PeftFolder(tensors=values)


def with_dtype(dtype: str) -> PeftFolder:
    return PeftFolder(tensors=tensors() | {Q1A: np.ones((2, 8), dtype)})


PAIRS: dict[str, Refused] = {
    **{f"stray tensor: {case}": (put(name, ODD), "belongs to no module") for case, name in STRAYS.items()},
    **{f"stray tensor: {case}": (put(name, ODD), reason) for case, (name, reason) in KNOWN_STRAYS.items()},
    **{f"shape: {case}": (put(name, np.ones(shape, np.float32)), r"has shape \[.*expected \[.*tiny-gemma")
       for case, (name, shape) in SHAPES.items()},
    "A and B swapped": (swapped(), "has shape"),
    **{f"missing {name[23:]}": (without(name), f"{name} is missing") for name in tensors()},
    "missing pair": (without(Q1A, Q1B), "layers.1.self_attn.q_proj.lora_A.weight is missing"),
    "missing layer": (PeftFolder(tensors=tensors(layers=[0, 1])), "layers.2.self_attn.q_proj.lora_A.weight is missing"),
    "missing module": (PeftFolder(tensors=tensors(("q_proj",))), "layers.0.self_attn.v_proj.lora_A.weight is missing"),
    "only A": (without(*(name for name in tensors() if "lora_B" in name)), "lora_B.weight is missing"),
    "only B": (without(*(name for name in tensors() if "lora_A" in name)), "lora_A.weight is missing"),
    "layer beyond": (PeftFolder(tensors=tensors(layers=range(4))), "layers.3.*has only 3 layers"),
    "layer far beyond": (put(tensor_name(9999, "q_proj", "A"), ODD), "has only 3 layers"),
    "all of a larger base": (PeftFolder(tensors=tensors(layers=range(28))), "has only 3 layers"),
    "mixed prefixes": (put("language_model.layers.0.self_attn.k_proj.lora_A.weight", ODD), "has another prefix than"),
    "layers with different prefixes": (
        PeftFolder(tensors=tensors(layers=[0, 1]) | tensors(layers=[2], prefix="base_model.model.model.model.")),
        "has another prefix than",
    ),
    "two names of one tensor": (put("model.layers.0.self_attn.q_proj.lora_A.weight", ODD), "means the same as"),
    "with and without the adapter's name": (put(Q1A.replace(".weight", ".default.weight"), ODD), "means the same as"),
    "every side unknown": (renamed(lambda name: name.replace("lora_", "hada_")), "belongs to no module"),
    **{f"dtype {dtype}": (with_dtype(dtype), "the dtype") for dtype in ("float64", "int8")},
    "all in double precision": (PeftFolder(tensors=tensors(dtype="float64")), 'the dtype "F64"'),
    **{f"{number} in {dtype}": (with_value(number, dtype), r"layers.1.*lora_B.weight has a NaN or infinity at \[3, 1\]")
       for number in (float("nan"), float("inf"), float("-inf")) for dtype in ("float32", "float16")},
    **{f"bfloat16 {bits:#x}": (with_bits(bits), r"NaN or infinity at \[3, 1\]")
       for bits in (0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF)},
    **{f"{number} as bfloat16": (with_value(number), "too large for bfloat16")
       for number in (3.4e38, -3.4e38, 3.3962e38)},
    "all NaN": (PeftFolder(tensors={name: value * np.nan for name, value in tensors().items()}), "NaN or infinity"),
    "rank of the file": (PeftFolder(config(r=4), tensors(rank=8)), r"has shape \[8, 8\]; expected \[4, 8\]"),
}  # fmt: skip
