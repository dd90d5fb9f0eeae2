"""Decoding of a model with Gemma 7B's shape and random weights, ours and llama.cpp's of the same size.

python -m benchmarks.large_model [--weights NAME …] [--rounds COUNT] [--folder FOLDER] [--result FILE]

`int8` is measured on a Q8_0 file, as llama.cpp is; `int4` on a file of floats, llama.cpp on a Q4_0 file, which is as
large as our packed weights; `Q4_0` with that file's weights kept as they are. Files and packed weights take 50 GB of
the folder's disk; what is there already is used again.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.engine_load import TokenPrompts, Work, decode_rate, perform, running
from benchmarks.machine import Limits, Machine
from benchmarks.peers import llama_cpp
from benchmarks.random_gguf import gemma_7b, write_random_gguf
from benchmarks.results import Figures
from gguf import GGUFReader

from benchmarks import results
from gemlora.engines.cpu.options import CpuOptions
from gemlora.engines.cpu.weights.folder import Quantize
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.prepare import prepare
from gemlora.engines.cpu.weights.progress import silent

RESULT = results.FOLDER / "large_model.json"


class Files(NamedTuple):
    """The types of the weights in our file and in llama.cpp's, and how ours are converted."""

    ours: str
    quantize: Quantize
    theirs: str


FILES: Mapping[str, Files] = {
    "int8": Files("Q8_0", "int8", "Q8_0"),
    "int4": Files("F16", "int4", "Q4_0"),
    "Q4_0": Files("Q4_0", "int4", "Q4_0"),
}
BATCHES = (1, 16)
PROMPT, TOKENS = 32, 40
"""The prompts take a step each, so a batch of 16 decodes together for 24 of its 40 steps."""

KV_CACHE_BYTES = 1 << 30


def gguf_of(type_name: str, folder: Path) -> Path:
    """The random model's file with weights of a type."""
    path = folder / f"gemma-7b-shaped-{type_name}.gguf"
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory() as name:
        vocabulary = GGUFReader(llama_cpp.starter_file(Path(name)))
        config = gemma_7b(vocabulary=len(vocabulary.fields["tokenizer.ggml.tokens"].data))
        return write_random_gguf(path.with_suffix(".partial"), config, type_name, vocabulary).rename(path)


async def ours(folder: Path, model: PackedModel, seed: int) -> Figures:
    """Tokens a second while all sequences decode."""
    options = CpuOptions(
        model=str(folder), kv_cache_bytes=KV_CACHE_BYTES, max_sequences=max(BATCHES), max_queue=max(BATCHES),
        step_tokens=512, adapter_memory_bytes=1 << 20, adapter_cache=str(folder / "adapters"), adapter_cache_bytes=0,
    )  # fmt: skip
    prompts = TokenPrompts(model.config.vocabulary, seed)
    figures: Figures = {}
    async with running(options) as engine:
        await perform(engine, [[Work(prompts.draw(PROMPT), 2)]])
        for batch in BATCHES:
            timings = await perform(engine, [[Work(prompts.draw(PROMPT), TOKENS)] for _ in range(batch)])
            figures[f"decode_{batch}"] = decode_rate(timings)
    return figures


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", choices=FILES, default=[*FILES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/gemlora-large-model"))
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    machine = Machine(arguments.folder)
    rounds, sizes = [], {}
    for seed in range(arguments.rounds):
        limits: list[Limits] = []
        figures: Figures = {}
        for name in arguments.weights:
            files = FILES[name]
            file, peers = (gguf_of(each, arguments.folder) for each in (files.ours, files.theirs))
            folder = prepare(str(file), None, None, files.quantize, arguments.folder / "cache", silent)
            model = PackedModel.open(folder)
            sizes[name] = model.size
            around = machine.limits()
            found = asyncio.run(ours(folder, model, seed))
            around += machine.limits()
            limits += around
            figures |= {f"{name}.gemlora_{key}": value for key, value in found.items()}
            bandwidth = max(each.read_gigabytes_per_second for each in around) * 1e9
            figures[f"{name}.decode_1_share_of_bandwidth"] = found["decode_1"] * model.size / bandwidth
            theirs = llama_cpp.decode_rates(peers, PROMPT, TOKENS, BATCHES)
            figures |= {f"{name}.llama_cpp_decode_{batch}": value for batch, value in theirs.items()}
        rounds.append({"limits": [asdict(each) for each in limits], "figures": figures})
        print(f"round {seed + 1}/{arguments.rounds}", {key: round(value, 2) for key, value in figures.items()})
    measured = [each["figures"] for each in rounds]
    figures = results.medians(measured)
    for name in arguments.weights:
        for batch in BATCHES:
            pair = (f"{name}.{engine}_decode_{batch}" for engine in ("gemlora", "llama_cpp"))
            ratio = results.median_ratio(measured, *pair)
            if ratio is not None:
                figures[f"{name}.decode_{batch}_over_llama_cpp"] = ratio
    results.write(
        arguments.result, figures, rounds, prompt_tokens=PROMPT, output_tokens=TOKENS, weight_bytes=sizes,
        llama_cpp=llama_cpp.version(), files={name: FILES[name]._asdict() for name in arguments.weights},
    )  # fmt: skip


if __name__ == "__main__":
    main()
