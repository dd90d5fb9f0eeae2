"""Architectures in GGUF's words: what is written is read back as it was."""

from dataclasses import replace

import numpy as np
import pytest

from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.engines.cpu.weights.gguf_config import gguf_config
from gemlora.engines.cpu.weights.gguf_export import ARCHITECTURES, gguf_metadata
from gemlora.errors import WeightsInvalid

FULL, LOCAL = LayerConfig(Rope(1e6, 8.0), None), LayerConfig(Rope(1e4), 512)
GEMMA3 = GemmaConfig(
    generation=3, hidden=640, feed_forward=2048, heads=4, kv_heads=1, head_dim=256, vocabulary=9, context=8192,
    norm_epsilon=1e-6, attention_scale=1 / 16, embedding_scale=float(np.float32(640**0.5)), attention_softcap=None,
    logit_softcap=None, layers=(LOCAL,) * 5 + (FULL,) + (LOCAL,) * 2,
)  # fmt: skip
EVERYWHERE = LayerConfig(Rope(1e4), None)
WINDOW = LayerConfig(Rope(1e4), 4096)
GEMMA2 = replace(
    GEMMA3, generation=2, attention_softcap=50.0, logit_softcap=30.0, layers=(WINDOW, EVERYWHERE) * 3
)  # fmt: skip

CONFIGS = {
    "gemma3": GEMMA3,
    "gemma2": GEMMA2,
    "gemma1": replace(GEMMA3, generation=1, layers=(EVERYWHERE,) * 3),
    "own scale": replace(GEMMA3, attention_scale=0.1),
    "largest Gemma 2": replace(GEMMA2, attention_scale=(640 / 4) ** -0.5, layers=(WINDOW, EVERYWHERE) * 23),
    "own pattern": replace(GEMMA3, layers=(FULL, LOCAL, LOCAL)),
    "own local rope": replace(GEMMA3, layers=(LayerConfig(Rope(5e3), 512),) * 5 + (FULL,)),
    "no windows": replace(GEMMA3, layers=(FULL,) * 3),
    "capped": replace(GEMMA3, logit_softcap=30.0),
}


def read(config: GemmaConfig) -> GemmaConfig:
    metadata = {"general.architecture": ARCHITECTURES[config.generation], **gguf_metadata(config)}
    for key, value in metadata.items():
        if isinstance(value, list):
            metadata[key] = np.array(value)
    return gguf_config(metadata, config.vocabulary)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_architecture_is_read_back(name: str) -> None:
    found = read(CONFIGS[name])
    assert found.attention_scale == pytest.approx(CONFIGS[name].attention_scale)
    assert replace(found, attention_scale=0.0) == replace(CONFIGS[name], attention_scale=0.0)


def test_what_readers_assume_is_not_written() -> None:
    assert not {key for key in gguf_metadata(GEMMA3) if key.endswith(("scale", "pattern", "swa"))}
    assert "gemma3.attention.scale" in gguf_metadata(CONFIGS["own scale"])


def test_layers_with_different_windows_cannot_be_said() -> None:
    narrow = LayerConfig(Rope(1e4), 64)
    with pytest.raises(WeightsInvalid, match="cannot be written as GGUF"):
        gguf_metadata(replace(GEMMA3, layers=(LOCAL, narrow, FULL)))
