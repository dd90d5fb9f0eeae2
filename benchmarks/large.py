"""How fast the engine decodes a model of Gemma 7B's shape with random weights, as a share of the memory's bandwidth.

python -m benchmarks.large [--quantize int8|int4] [--layers COUNT] [--folder FOLDER] [--result FILE]

The packed model is made directly, without a checkpoint, in a temporary folder: 9 GB with int8, 6 GB with int4.
`--layers 4` is a quick form. Its share of the bandwidth is not that of the whole model, of which the head is less.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import GenerateRequest, Sampling
from gemlora.engines.cpu.batch import Batch, Chunk
from gemlora.engines.cpu.blocks import blocks_for
from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.sampler import Sampler
from gemlora.engines.cpu.sequence import Sequence
from gemlora.engines.cpu.weights import PackedModel, quantization
from gemlora.engines.cpu.weights.checkpoint import Floats, Quantized, Storage
from gemlora.engines.cpu.weights.packed import Quantize
from gemlora.engines.cpu.weights.packing import pack
from gemlora.engines.cpu.weights.progress import silent
from gemlora.engines.cpu.weights.tensor_names import shapes
from gemlora.engines.cpu.weights.vocabulary import SpecialTokens
from gemlora.kernels.cores import usable_cores
from gemlora.kernels.native import NativeKernels

BATCHES = (1, 16)
PROMPT, WARM_UP, STEPS = 16, 2, 8
CONTEXT = 128
SCALE = 2.0**-12
PROBE_BYTES = 1 << 29
PROBES = 8


def gemma_7b(layers: int = 28, vocabulary: int = 256000, hidden: int = 3072, feed_forward: int = 24576) -> GemmaConfig:
    """Gemma 7B's shape."""
    return GemmaConfig(
        generation=1, hidden=hidden, feed_forward=feed_forward, heads=16, kv_heads=16, head_dim=256,
        vocabulary=vocabulary, context=8192, norm_epsilon=1e-6, attention_scale=256**-0.5,
        embedding_scale=hidden**0.5, attention_softcap=None, logit_softcap=None,
        layers=(LayerConfig(Rope(10000.0), None),) * layers,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RandomTensor:
    """Random whole numbers with one scale, or a norm of ones."""

    source: str
    shape: tuple[int, ...]
    storage: Storage

    @property
    def row_bytes(self) -> int:
        """For progress."""
        return self.shape[-1]

    def rows(self, start: int, stop: int) -> Floats | Quantized:
        """Rows `start` to `stop`."""
        if self.storage.group is None:
            return np.ones((1, *self.shape), np.float32)
        count, columns = stop - start, self.shape[-1]
        lowest = 0 if self.storage.minimums else -(1 << (self.storage.bits - 1))
        random = np.random.default_rng(start)
        q = random.integers(lowest, lowest + (1 << self.storage.bits), (count, columns), np.int8)
        scales = np.full((count, columns // self.storage.group), SCALE, self.storage.dtype)
        middle = np.full_like(scales, SCALE * (1 << self.storage.bits) / 2)
        return Quantized(q, scales, middle if self.storage.minimums else None)


class RandomCheckpoint:
    """Implements `Checkpoint`. It has no vocabulary: it is asked for token ids alone."""

    name = "random"

    def __init__(self, config: GemmaConfig, quantize: Quantize) -> None:
        self.config = config
        floats = Storage(np.dtype(np.float32))
        self.tensors: Mapping[str, RandomTensor] = {
            name: RandomTensor(name, shape, floats if len(shape) == 1 else quantization.storage(name, floats, quantize))
            for name, shape in shapes(config, tied=True).items()
        }

    def write_vocabulary(self, folder: Path) -> SpecialTokens:
        """Write a file that stands for the tokenizer's."""
        (folder / "tokenizer.model").write_bytes(b"")
        return SpecialTokens(bos=2, eos=1, start_of_turn=106, end_of_turn=107)


def random_model(folder: Path, config: GemmaConfig, quantize: Quantize) -> PackedModel:
    """Write the model into the empty folder and open it."""
    checkpoint = RandomCheckpoint(config, quantize)
    pack(checkpoint, folder, name=checkpoint.name, digest="0" * 64, quantize=quantize, progress=silent)
    return PackedModel.open(folder)


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read from memory together: the best of several passes."""
    data = np.ones(PROBE_BYTES // 8)
    parts = np.array_split(data, threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(PROBES):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, data.nbytes / (time.perf_counter() - start))
    return best


def decode_seconds(model: PackedModel, kernels: NativeKernels, batch: int) -> list[float]:
    """Seconds of each step in which every sequence gets one token."""
    config = model.config
    token_bytes = len(config.layers) * 2 * config.kv_size * 2
    runner = Runner(model, kernels, context=CONTEXT, kv_cache_bytes=batch * CONTEXT * token_bytes)
    sampler = Sampler(kernels)
    sequences = [_sequence(index, config.vocabulary) for index in range(batch)]
    runner.forward(Batch.of([Chunk(sequence, PROMPT) for sequence in sequences]))
    for sequence in sequences:
        sequence.computed = PROMPT
        sequence.append(5)
    seconds = []
    for _ in range(WARM_UP + STEPS):
        start = time.perf_counter()
        logits = runner.forward(Batch.of([Chunk(sequence, 1) for sequence in sequences]))
        for sequence, token in zip(sequences, sampler.sample(logits, sequences), strict=True):
            sequence.computed += 1
            sequence.append(token)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def _sequence(index: int, vocabulary: int) -> Sequence:
    prompt: NDArray[np.integer[Any]] = np.random.default_rng(index).integers(0, vocabulary, PROMPT)
    sampling = Sampling(seed=index, temperature=0.0)
    sequence = Sequence.start(GenerateRequest(str(index), tuple(prompt.tolist()), CONTEXT, sampling, ()), index)
    blocks = blocks_for(CONTEXT)
    sequence.blocks = list(range(index * blocks, (index + 1) * blocks))
    return sequence


def measure(model: PackedModel, threads: int) -> dict[str, float]:
    """Tokens a second by batch, and batch 1's share of the bandwidth: a step reads every weight once."""
    kernels = NativeKernels(threads)
    found: dict[str, float] = {}
    limits = [bandwidth(threads)]
    for batch in BATCHES:
        found[f"decode_{batch}"] = batch / statistics.median(decode_seconds(model, kernels, batch))
        limits.append(bandwidth(threads))
    found["read_gigabytes_per_second"] = max(limits) / 1e9
    found["decode_1_share_of_bandwidth"] = found["decode_1"] * model.size / max(limits)
    return found


def main() -> None:
    """Make the model, measure it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quantize", choices=("int8", "int4"), default="int8")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print("Writing the model", file=sys.stderr)
        model = random_model(Path(folder), gemma_7b(arguments.layers), arguments.quantize)
        result = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "quantize": arguments.quantize,
            "layers": arguments.layers,
            "weight_bytes": model.size,
            "figures": measure(model, arguments.threads),
        }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.result:
        arguments.result.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
