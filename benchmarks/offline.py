"""Prefill and decode of the engine on the starter model, beside llama.cpp's own benchmarks and the machine's limits.

python -m benchmarks.offline [--rounds COUNT] [--peers] [--result FILE]

Both take turns, and each round begins with a probe of the machine. The engine is measured through its contract, with
its process, step loop and sampling; llama.cpp by `llama-bench` and `llama-batched-bench` on the same file.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.adapter_memory import starter_options
from benchmarks.engine_load import TokenPrompts, Work, decode_rate, first_token, perform, running
from benchmarks.machine import Limits, Machine
from benchmarks.peers import llama_cpp
from benchmarks.results import Figures

from benchmarks import results
from gemlora.engines.cpu.client import CpuEngine
from gemlora.engines.cpu.options import CpuOptions
from gemlora.engines.cpu.weights.packed import PackedModel

RESULT = results.FOLDER / "offline.json"
PREFILL = 512
REPETITIONS = 5
PROMPT, TOKENS = 128, 64
BATCHES = (1, 8, 16, 32)
STAGGER = 6


async def ours(options: CpuOptions, prompts: TokenPrompts, batches: Sequence[int]) -> Figures:
    """Tokens a second of prefill and of decoding."""
    async with running(options) as engine:
        await perform(engine, [[Work(prompts.draw(PROMPT), 4)]])
        prefills = [await perform(engine, [[Work(prompts.draw(PREFILL), 1)]]) for _ in range(REPETITIONS)]
        figures = {"prefill": PREFILL / first_token([timings[0] for timings in prefills])}
        return figures | {f"decode_{batch}": await _decode(engine, prompts, batch) for batch in batches}


async def _decode(engine: CpuEngine, prompts: TokenPrompts, batch: int) -> float:
    """Those that are admitted first decode while others' prompts are computed: all get so many more tokens."""
    tokens = TOKENS + STAGGER * batch
    return decode_rate(await perform(engine, [[Work(prompts.draw(PROMPT), tokens)] for _ in range(batch)]))


def theirs(model: Path, batches: Sequence[int]) -> Figures:
    """The same of llama.cpp."""
    decoded = llama_cpp.decode_rates(model, PROMPT, TOKENS, batches)
    prefill = llama_cpp.prefill_rate(model, PREFILL, REPETITIONS)
    return {"prefill": prefill} | {f"decode_{batch}": value for batch, value in decoded.items()}


def shares(model: PackedModel, figures: Figures, limits: Limits) -> Figures:
    """How much of what the machine can do right now: int8 arithmetic in prefill, bandwidth at batch 1."""
    macs = multiply_adds(model)
    found = {"decode_1_share_of_bandwidth": figures["decode_1"] * model.size / limits.read_gigabytes_per_second / 1e9}
    if limits.int8_gmacs_per_second:
        found["prefill_share_of_int8"] = figures["prefill"] * macs / limits.int8_gmacs_per_second / 1e9
    return found


def multiply_adds(model: PackedModel) -> int:
    """Of one token in the layers; the output head is computed for the last token of a prompt alone."""
    config = model.config
    return len(config.layers) * sum(outputs * inputs for outputs, inputs in config.modules.values())


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="measure llama.cpp too; needs `make peers`")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        options, model = starter_options(Path(name))
        machine = Machine(Path(name))
        file = llama_cpp.starter_file(Path(name)) if arguments.peers else None
        for seed in range(arguments.rounds):
            limits = machine.limits()
            prompts = TokenPrompts(model.config.vocabulary, seed)
            figures = {f"gemlora_{key}": value for key, value in asyncio.run(ours(options, prompts, BATCHES)).items()}
            if file is not None:
                figures |= {f"llama_cpp_{key}": value for key, value in theirs(file, BATCHES).items()}
            own = {key.removeprefix("gemlora_"): value for key, value in figures.items()}
            figures |= shares(model, own, limits[-1])
            rounds.append({"limits": [asdict(each) for each in limits], "figures": figures})
            print(f"round {seed + 1}/{arguments.rounds}", {key: round(value, 2) for key, value in figures.items()})
    measured = [each["figures"] for each in rounds]
    figures = results.medians(measured)
    for key in ("prefill", *(f"decode_{batch}" for batch in BATCHES)):
        ratio = results.median_ratio(measured, f"gemlora_{key}", f"llama_cpp_{key}")
        if ratio is not None:
            figures[f"{key}_over_llama_cpp"] = ratio
    results.write(
        arguments.result, figures, rounds, prefill_tokens=PREFILL, prompt_tokens=PROMPT, output_tokens=TOKENS,
        weight_bytes=model.size, multiply_adds_per_token=multiply_adds(model),
        llama_cpp=llama_cpp.version() if arguments.peers else None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
