"""The reading of config.json against transformers' own, in the spellings of both of its generations."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from transformers import AutoConfig, PretrainedConfig
from transformers.masking_utils import sliding_window_overlay

from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.engines.cpu.weights.huggingface_config import huggingface_config, tied_embeddings
from gemlora.errors import WeightsInvalid

HUB: dict[str, dict[str, Any]] = {
    "gemma-7b-it": {
        "model_type": "gemma", "head_dim": 256, "hidden_act": "gelu", "hidden_activation": None, "hidden_size": 3072,
        "intermediate_size": 24576, "max_position_embeddings": 8192, "num_attention_heads": 16,
        "num_hidden_layers": 28, "num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
        "rope_scaling": None, "vocab_size": 256000, "attention_bias": False,
    },
    "gemma-2b": {
        "model_type": "gemma", "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 2048,
        "intermediate_size": 16384, "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
    },
    "gemma-2-27b": {
        "model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "head_dim": 128,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 4608, "intermediate_size": 36864,
        "num_attention_heads": 32, "num_hidden_layers": 46, "num_key_value_heads": 16, "query_pre_attn_scalar": 144,
        "rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096, "vocab_size": 256000,
    },
    "gemma-2-2b, caps off": {
        "model_type": "gemma2", "attn_logit_softcapping": None, "final_logit_softcapping": None, "hidden_size": 2304,
        "num_hidden_layers": 5, "rope_scaling": {"type": "linear", "factor": 2.0},
    },
    "gemma-3-1b-it": {
        "model_type": "gemma3_text", "attn_logit_softcapping": None, "head_dim": 256, "hidden_size": 1152,
        "intermediate_size": 6912, "max_position_embeddings": 32768, "num_attention_heads": 4,
        "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
        "sliding_window_pattern": 6, "vocab_size": 262144,
    },
    "gemma-3-4b-it": {
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152},
    },
    "gemma-3, pattern of two": {
        "model_type": "gemma3_text", "num_hidden_layers": 5, "sliding_window_pattern": 2, "rope_theta": 500000.0,
        "rope_local_base_freq": 5000.0, "final_logit_softcapping": 20.0, "query_pre_attn_scalar": 168,
    },
    "gemma-3, layers one by one": {
        "model_type": "gemma3_text", "num_hidden_layers": 3, "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
}  # fmt: skip


def text_of(config: PretrainedConfig) -> PretrainedConfig:
    return config.text_config if config.model_type == "gemma3" else config


def as_transformers_reads(config: PretrainedConfig, embedding_scale: float) -> GemmaConfig:
    """The same facts from a config that transformers parsed."""
    generation = {"gemma": 1, "gemma2": 2, "gemma3_text": 3}[config.model_type]
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers

    def layer(kind: str) -> LayerConfig:
        rope = config.rope_parameters[kind] if generation == 3 else config.rope_parameters
        window = config.sliding_window if kind == "sliding_attention" else None
        return LayerConfig(Rope(rope["rope_theta"], rope.get("factor", 1.0)), window)

    scalar = config.head_dim if generation == 1 else config.query_pre_attn_scalar
    return GemmaConfig(
        generation=generation,
        hidden=config.hidden_size,
        feed_forward=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        norm_epsilon=config.rms_norm_eps,
        attention_scale=scalar**-0.5,
        embedding_scale=embedding_scale,
        attention_softcap=config.attn_logit_softcapping if generation == 2 else None,
        logit_softcap=config.final_logit_softcapping if generation > 1 else None,
        layers=tuple(layer(kind) for kind in types),
    )


@pytest.mark.parametrize("name", HUB)
def test_a_config_means_what_transformers_makes_of_it(name: str) -> None:
    document = HUB[name]
    parsed = text_of(AutoConfig.for_model(**document))
    config = huggingface_config(document, parsed.vocab_size, np.float32)
    assert config == as_transformers_reads(parsed, float(np.float32(parsed.hidden_size**0.5)))


@pytest.mark.parametrize("name", HUB)
def test_what_transformers_writes_back_means_the_same(name: str) -> None:
    parsed = AutoConfig.for_model(**HUB[name])
    again = huggingface_config(parsed.to_dict(), text_of(parsed).vocab_size, np.float32)
    assert again == huggingface_config(HUB[name], text_of(parsed).vocab_size, np.float32)


def test_the_embedding_scale_is_rounded_to_the_checkpoints_dtype() -> None:
    scales = [
        huggingface_config(HUB["gemma-7b-it"], 256000, dtype).embedding_scale
        for dtype in (ml_dtypes.bfloat16, np.float16, np.float32)
    ]
    assert scales == [55.5, 55.4375, float(np.float32(3072**0.5))]


def test_a_window_counts_the_token_itself() -> None:
    sees = [sliding_window_overlay(8)(0, 0, 20, position) for position in range(21)]
    assert sum(sees) == huggingface_config(HUB["gemma-3, layers one by one"], 1000, np.float32).layers[1].window == 8


def test_the_outermost_word_on_tied_embeddings_counts() -> None:
    document = HUB["gemma-3-4b-it"]
    assert tied_embeddings(document)
    assert not tied_embeddings({**document, "tie_word_embeddings": False})
    assert not tied_embeddings({**document, "text_config": {"tie_word_embeddings": False}})
    assert not tied_embeddings({**HUB["gemma-2b"], "tie_word_embeddings": False})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"model_type": "gemma3n_text"}, "model_type is 'gemma3n_text'"),
        ({"model_type": None}, "model_type is None"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"head_dim": "256"}, "head_dim is '256'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"layer_types": ["sliding_attention"]}, "layer_types is"),
        ({"layer_types": ["chunked_attention"] * 26}, "layer_types is"),
        ({"sliding_window": None}, "sliding_window is None"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "rotary embedding .*yarn"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rotary embedding .*linear"),
        ({"rope_scaling": 8}, "rope_scaling is 8"),
        ({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}, "rope_parameters is"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsInvalid, match=message):
        huggingface_config({**HUB["gemma-3-1b-it"], **changes}, 262144, np.float32)


def test_an_image_model_without_a_text_config_is_refused() -> None:
    with pytest.raises(WeightsInvalid, match="text_config is missing"):
        huggingface_config({"model_type": "gemma3"}, 262144, np.float32)
