"""A sample of `make quality`: the same windows, the same yardstick, llama.cpp's figures as recorded."""

import json
from statistics import mean

import pytest
from benchmarks.quality import RESULT, Divergence, compare, engine, starter, starter_file, transformers_fp32, windows

from gemlora.settings import Settings

SAMPLE = 1
"""Windows; the recorded run has many more."""


@pytest.fixture(scope="module")
def divergences() -> dict[str, list[Divergence]]:
    settings = Settings()
    texts = windows(starter("int8", settings), SAMPLE, length=256)
    with starter_file() as file:
        reference = transformers_fp32(file)
    expected = [reference(tokens) for tokens in texts]
    return {
        quantize: [compare(logits, predict(tokens)) for logits, tokens in zip(expected, texts, strict=True)]
        for quantize in ("int8", "none")
        for predict in [engine(quantize, settings)]
    }


def test_int8_stays_closer_to_the_fp32_model_than_llama_cpp_on_the_same_text(
    divergences: dict[str, list[Divergence]],
) -> None:
    recorded = json.loads(RESULT.read_text(encoding="utf-8"))["window_mean_kl"]["llama.cpp"][:SAMPLE]

    assert mean(mean(window.kl) for window in divergences["int8"]) <= 1.05 * mean(recorded)


def test_unquantised_arithmetic_is_the_fp32_model(divergences: dict[str, list[Divergence]]) -> None:
    assert max(max(window.kl) for window in divergences["none"]) < 1e-8
    assert all(all(window.same_top) for window in divergences["none"])
