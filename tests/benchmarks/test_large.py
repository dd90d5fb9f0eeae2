"""The large model's benchmark on a small model: what it writes is served and decodes."""

from pathlib import Path

import pytest
from benchmarks.large import STEPS, decode_seconds, gemma_7b, random_model

from gemlora.engines.cpu.weights.packed import Quantize
from gemlora.kernels import Format
from gemlora.kernels.native import NativeKernels


@pytest.mark.parametrize(("quantize", "format_"), [("int8", Format.INT8), ("int4", Format.INT4)])
def test_a_random_model_decodes(quantize: Quantize, format_: Format, tmp_path: Path) -> None:
    config = gemma_7b(layers=1, vocabulary=320, hidden=64, feed_forward=96)
    model = random_model(tmp_path, config, quantize)
    assert model.matrix("layers.0.down_proj").format is format_
    assert model.matrix("embedding").format is Format.INT8
    assert abs(model.matrix("layers.0.down_proj").dequantised().mean()) < 1e-3
    assert len(decode_seconds(model, NativeKernels(1), batch=3)) == STEPS
