"""The metadata of GGUF files as configurations."""

from typing import Any

import numpy as np
import pytest

from gemlora.engines.cpu.config import LayerConfig, Rope
from gemlora.engines.cpu.weights.gguf_config import gguf_config
from gemlora.errors import WeightsInvalid


def metadata(architecture: str, **changes: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes, for a model of twelve layers."""
    values: dict[str, Any] = {
        "context_length": 8192, "embedding_length": 640, "block_count": 12, "feed_forward_length": 2048,
        "attention.head_count": 4, "attention.head_count_kv": 1, "attention.key_length": 256,
        "attention.value_length": 256, "attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    if architecture != "gemma":
        values["attention.sliding_window"] = 512
    if architecture == "gemma3":
        values["rope.freq_base"] = 1e6
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return {"general.architecture": architecture} | {
        f"{architecture}.{key}": value for key, value in values.items() if value is not None
    }


def test_gemma_1_sees_everything_everywhere() -> None:
    config = gguf_config(metadata("gemma"), 256000)
    assert (config.generation, config.vocabulary, config.heads, config.kv_heads) == (1, 256000, 4, 1)
    assert config.layers == (LayerConfig(Rope(10_000.0), None),) * 12
    assert (config.attention_softcap, config.logit_softcap) == (None, None)
    assert config.attention_scale == 1 / 16


def test_gemma_2_has_windows_on_even_layers_and_caps() -> None:
    config = gguf_config(metadata("gemma2"), 256000)
    assert [layer.window for layer in config.layers] == [512, None] * 6
    assert {layer.rope for layer in config.layers} == {Rope(10_000.0)}
    assert (config.attention_softcap, config.logit_softcap) == (50.0, 30.0)
    changed = metadata(
        "gemma2", attn_logit_softcapping=5.0, final_logit_softcapping=6.0, attention__sliding_window=None
    )
    config = gguf_config(changed, 256000)
    assert (config.attention_softcap, config.logit_softcap, config.layers[0].window) == (5.0, 6.0, 4096)


def test_gemma_3_has_two_ropes_and_a_global_layer_after_five() -> None:
    config = gguf_config(metadata("gemma3", rope__scaling__type="linear", rope__scaling__factor=8.0), 262144)
    near, far = LayerConfig(Rope(10_000.0), 512), LayerConfig(Rope(1e6, 8.0), None)
    assert config.layers == ((near,) * 5 + (far,)) * 2
    assert (config.attention_softcap, config.logit_softcap) == (None, None)


def test_the_pattern_of_windows_may_be_given() -> None:
    period = gguf_config(metadata("gemma3", attention__sliding_window_pattern=3), 9)
    assert [layer.window is None for layer in period.layers] == [False, False, True] * 4
    each = np.arange(12) % 5 == 0
    listed = gguf_config(metadata("gemma3", attention__sliding_window_pattern=each, rope__freq_base_swa=5e3), 9)
    assert [layer.window is not None for layer in listed.layers] == each.tolist()
    assert listed.layers[0].rope == Rope(5e3)


def test_gemma_3_without_a_window_sees_everything() -> None:
    config = gguf_config(metadata("gemma3", attention__sliding_window=None, final_logit_softcapping=30.0), 9)
    assert config.layers == (LayerConfig(Rope(1e6), None),) * 12
    assert config.logit_softcap == 30.0


@pytest.mark.parametrize(
    ("architecture", "layers", "hidden", "heads"), [("gemma2", 46, 4608, 32), ("gemma3", 62, 5376, 32)]
)
def test_the_27b_models_scale_queries_by_hidden_over_heads(
    architecture: str, layers: int, hidden: int, heads: int
) -> None:
    sizes = metadata(
        architecture, block_count=layers, embedding_length=hidden, attention__head_count=heads,
        attention__key_length=128, attention__value_length=128,
    )  # fmt: skip
    assert gguf_config(sizes, 9).attention_scale == (hidden / heads) ** -0.5
    assert gguf_config(sizes | {f"{architecture}.block_count": layers - 1}, 9).attention_scale == 128**-0.5


def test_the_embedding_scale_is_float32s() -> None:
    assert gguf_config(metadata("gemma"), 9).embedding_scale == float(np.float32(640**0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "llama"}, "general.architecture is 'llama'"),
        ({"general.architecture": "gemma-embedding"}, "general.architecture is 'gemma-embedding'"),
        ({"gemma3.block_count": "12"}, "gemma3.block_count is '12'"),
        ({"gemma3.embedding_length": 0}, "gemma3.embedding_length is 0"),
        ({"gemma3.attention.head_count_kv": 3}, "gemma3.attention.head_count_kv is 3"),
        ({"gemma3.attention.value_length": 128}, "gemma3.attention.value_length is 128"),
        ({"gemma3.rope.scaling.type": "yarn"}, "gemma3.rope.scaling.type is 'yarn'"),
        ({"gemma3.attention.layer_norm_rms_epsilon": float("nan")}, "rms_epsilon is nan"),
        ({"gemma3.attention.sliding_window_pattern": np.ones(3, bool)}, "sliding_window_pattern"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsInvalid, match=message):
        gguf_config(metadata("gemma3") | changes, 262144)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(WeightsInvalid, match=r"metadata key gemma2.context_length is missing"):
        gguf_config(metadata("gemma2", context_length=None), 256000)
    with pytest.raises(WeightsInvalid, match=r"general.architecture is None"):
        gguf_config({}, 256000)
