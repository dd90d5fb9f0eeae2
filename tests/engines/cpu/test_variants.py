"""What is more than LoRA on the layers, in one batch: DoRA, rsLoRA, patterns, the embedding and the output head.

Every variant is compared with PEFT's unmerged float32 model.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel
from tests import checkpoints
from tests.adapters import described, peft_model, save_peft
from tests.checkpoints import Checkpoint
from tests.forward import Blocks, Trace, assert_close, assert_identical, relative_errors, run, step
from tests.stepping import LateExecutor, ListMailbox, constraining
from transformers import PreTrainedModel

from gemlora.engines.contract import AdapterRef, GenerateRequest, Sampling
from gemlora.engines.cpu.adapters import AdapterLoader, AdapterPool, PackedFiles
from gemlora.engines.cpu.batch import Chunk
from gemlora.engines.cpu.blocks import BlockPool
from gemlora.engines.cpu.engine import StepLoop
from gemlora.engines.cpu.frames import Delivered, Submit
from gemlora.engines.cpu.pace import Pace
from gemlora.engines.cpu.prefix_cache import PrefixCache
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.sampler import Sampler
from gemlora.engines.cpu.scheduler import Scheduler
from gemlora.engines.cpu.speculation import Speculation
from gemlora.kernels import Kernels, LoraWeights
from gemlora.kernels.native import NativeKernels

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = np.random.default_rng(6).integers(0, checkpoints.VOCABULARY, 60).tolist()
PROMPTS = 10
LENGTH = 12
GENERATIONS = ["gemma1", "gemma2", "gemma3", *checkpoints.UNTIED]

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
    "dora": {"use_dora": True},
    "dora, rslora, patterns": {"use_dora": True, "use_rslora": True, "rank_pattern": {"down_proj": 3}},
    "dora on one module": {"use_dora": True, "target_modules": ["o_proj"]},
    "embedding": {"target_modules": ["embed_tokens"]},
    "embedding, dora": {"target_modules": ["embed_tokens"], "use_dora": True},
    "head": {"target_modules": ["lm_head"]},
    "head, dora": {"target_modules": ["lm_head"], "use_dora": True},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head"], "rank_pattern": {"lm_head": 3}},
    "everything, dora": {"target_modules": [*LAYERS, "embed_tokens", "lm_head"], "use_dora": True},
    "everything, rslora": {"target_modules": [*LAYERS, "embed_tokens", "lm_head"], "use_rslora": True},
}


class Variant(NamedTuple):
    """An adapter as PEFT computes it and as the engine finds and loads it; the base has neither ref nor weights."""

    model: PreTrainedModel | PeftModel
    ref: AdapterRef | None = None
    weights: LoraWeights | None = None


Variants = Callable[[str], dict[str, Variant]]


def loader(case: Checkpoint, folder: Path) -> AdapterLoader:
    return AdapterLoader(case.weights, "auto", PackedFiles(folder / "packed", 1 << 30), NativeKernels(1))


def variant(case: Checkpoint, folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Variant:
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": LAYERS, **VARIANTS[name]})
    model = peft_model(case.oracle, config, seed=list(VARIANTS).index(name), dtype=dtype)
    ref = described(model, save_peft(model, folder / name, dtype))
    return Variant(model, ref, loader(case, folder).load(ref))


@pytest.fixture(scope="module")
def variants(checkpoint: Callable[[str], Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Variants:
    """All variants of an architecture, and the base as "none"."""

    @cache
    def make(architecture: str) -> dict[str, Variant]:
        case, folder = checkpoint(architecture), tmp_path_factory.mktemp(architecture)
        return {**{name: variant(case, folder, name) for name in VARIANTS}, "none": Variant(case.oracle)}

    return make


def runner(case: Checkpoint, kernels: Kernels) -> Runner:
    return Runner(case.weights, kernels, context=checkpoints.CONTEXT, kv_cache_bytes=1 << 25)


@pytest.mark.parametrize("architecture", GENERATIONS)
def test_every_variant_equals_peft_alone_and_mixed_in_one_batch(
    checkpoint: Callable[[str], Checkpoint], variants: Variants, native: Kernels, reference: Kernels, architecture: str
) -> None:
    case, cases = checkpoint(architecture), variants(architecture)
    mixed = mixed_traces(runner(case, native), {name: weights for name, (_, _, weights) in cases.items()})
    for name, (model, _, weights) in cases.items():
        expected = checkpoints.trace(model, TOKENS)
        alone = run(runner(case, native), TOKENS, adapter=weights)
        assert_close(alone, expected)
        assert_identical(mixed[name], alone)
        assert_close(run(runner(case, reference), TOKENS, [13, 1, 1], weights), expected)
        if weights is not None:
            assert relative_errors(mixed["none"], expected)["logits"] > 0.05


def mixed_traces(shared: Runner, adapters: dict[str, LoraWeights | None]) -> dict[str, Trace]:
    """TOKENS with every adapter, all in the same steps, cut differently."""
    blocks, random = Blocks(shared), np.random.default_rng(7)
    sequences = {name: blocks.sequence(TOKENS, adapter) for name, adapter in adapters.items()}
    parts: dict[str, list[Trace]] = {name: [] for name in sequences}
    while left := {name: sequence for name, sequence in sequences.items() if sequence.remaining}:
        chunks = [
            Chunk(sequence, min(int(random.choice([1, 7, 30])), sequence.remaining)) for sequence in left.values()
        ]
        for name, trace in zip(left, step(shared, *chunks), strict=True):
            parts[name].append(trace)
    return {name: Trace.join(traces) for name, traces in parts.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_variants_in_half_precision_equal_peft(
    checkpoint: Callable[[str], Checkpoint], native: Kernels, tmp_path: Path, dtype: torch.dtype
) -> None:
    case = checkpoint("gemma2")
    model, _, weights = variant(case, tmp_path, "everything, dora", dtype)
    assert_close(run(runner(case, native), TOKENS, adapter=weights), checkpoints.trace(model, TOKENS))


@pytest.mark.parametrize("architecture", ["gemma1", "gemma2", "gemma3"])
def test_greedy_tokens_of_every_variant_equal_pefts(
    checkpoint: Callable[[str], Checkpoint],
    variants: Variants,
    native: Kernels,
    tmp_path: Path,
    architecture: str,
) -> None:
    case, cases = checkpoint(architecture), variants(architecture)
    prompts = np.random.default_rng(8).integers(4, checkpoints.VOCABULARY, (PROMPTS, 15))
    actual = greedy_tokens(case, native, loader(case, tmp_path), prompts.tolist(), cases)
    expected = {name: peft_greedy_tokens(model, prompts) for name, (model, _, _) in cases.items()}
    assert actual == expected
    assert all(tokens != expected["none"] for name, tokens in expected.items() if name != "none")
    assert len(cases) * PROMPTS > 100


def peft_greedy_tokens(model: PreTrainedModel | PeftModel, prompts: NDArray[np.int64]) -> list[list[int]]:
    """The most likely continuation of each prompt [prompts, tokens]."""
    tokens = torch.tensor(prompts)
    with torch.inference_mode():
        for _ in range(LENGTH):
            logits = model(tokens, use_cache=False).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return tokens[:, prompts.shape[1] :].tolist()


def greedy_tokens(
    case: Checkpoint,
    kernels: Kernels,
    adapters: AdapterLoader,
    prompts: list[list[int]],
    cases: dict[str, Variant],
) -> dict[str, list[list[int]]]:
    """All prompts with all adapters through one engine at once."""
    mailbox, executor, shared = ListMailbox(), LateExecutor(), runner(case, kernels)
    scheduler = Scheduler(PrefixCache(BlockPool(shared.blocks), "", most_idle=0), max_sequences=40, pace=Pace(256, inf))
    loop = StepLoop(
        mailbox, scheduler, shared, Sampler(kernels), AdapterPool(adapters, 1 << 24, executor, executor, lambda: None),
        Speculation(0), constraining([b"a"], executor),
        context_window=checkpoints.CONTEXT, vocabulary=checkpoints.VOCABULARY, probe_prompt=(2,),
    )  # fmt: skip
    for number, prompt in enumerate(prompts):
        for name, (_, ref, _) in cases.items():
            request = GenerateRequest(
                f"{name} {number}", tuple(prompt), LENGTH, Sampling(seed=0, temperature=0), (), ref
            )
            mailbox.commands.append(Submit(request))
    loop.step()
    while scheduler.running or scheduler.waiting:
        executor.run()
        loop.step()
    tokens: dict[str, list[int]] = defaultdict(list)
    for event in mailbox.events:
        if isinstance(event, Delivered):
            tokens[event.id] += event.tokens
    return {name: [tokens[f"{name} {number}"] for number in range(len(prompts))] for name in cases}
