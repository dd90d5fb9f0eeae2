"""Adapters change the output exactly as PEFT's unmerged float32 model does, alone and mixed in one batch."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from tests import checkpoints
from tests.adapters import Pair, peft_model, random_pairs, registered, save_peft, write_adapter
from tests.checkpoints import Checkpoint
from tests.forward import Blocks, Trace, assert_close, assert_identical, relative_errors, run, step

from gemlora.engines.cpu.adapters import AdapterLoader, PackedFiles
from gemlora.engines.cpu.batch import Chunk
from gemlora.engines.cpu.runner import Runner
from gemlora.kernels import Kernels, LoraWeights
from gemlora.kernels.native import NativeKernels

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]
ALL = [*ATTENTION, *FEED_FORWARD]
TOKENS = np.random.default_rng(5).integers(0, checkpoints.VOCABULARY, 60).tolist()

CONFIGS: dict[str, dict[str, Any]] = {
    **{f"rank {rank}": {"r": rank, "lora_alpha": 16} for rank in (1, 2, 4, 8, 16, 32)},
    **{f"only {module}": {"target_modules": [module]} for module in ALL},
    **{f"all but {module}": {"target_modules": [other for other in ALL if other != module]} for module in ALL},
    "attention": {"target_modules": ATTENTION},
    "feed-forward": {"target_modules": FEED_FORWARD},
    "alpha below r": {"lora_alpha": 2},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 12},
    "ranks by module": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 16}},
    "alphas by module": {"alpha_pattern": {"down_proj": 1, "layers.0.self_attn.k_proj": 40}},
    "patterns, rank-stabilised": {
        "use_rslora": True,
        "rank_pattern": {"v_proj": 3, "layers.2.self_attn.o_proj": 1},
        "alpha_pattern": {"v_proj": 5, "gate_proj": 2},
    },
}


def runner(case: Checkpoint, kernels: Kernels) -> Runner:
    return Runner(case.weights, kernels, context=checkpoints.CONTEXT, kv_cache_bytes=1 << 24)


def loader(case: Checkpoint, folder: Path) -> AdapterLoader:
    return AdapterLoader(case.weights, "auto", PackedFiles(folder / "packed", 1 << 30), NativeKernels(1))


def peft_case(
    case: Checkpoint, folder: Path, seed: int, dtype: torch.dtype = torch.float32, **settings: Any
) -> tuple[Trace, LoraWeights]:
    """PEFT's result for TOKENS, and the adapter as the engine loads it."""
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": ALL, **settings})
    model = peft_model(case.oracle, config, seed, dtype)
    ref = registered(save_peft(model, folder, dtype), case.weights.config)
    return checkpoints.trace(model, TOKENS), loader(case, folder).load(ref)


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_every_kind_of_adapter_equals_peft(
    checkpoint: Callable[[str], Checkpoint], native: Kernels, tmp_path: Path, settings: dict[str, Any]
) -> None:
    case = checkpoint("gemma2")
    expected, adapter = peft_case(case, tmp_path, seed=1, **settings)
    assert_close(run(runner(case, native), TOKENS, adapter=adapter), expected)


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_generation_and_dtype_equals_peft(
    checkpoint: Callable[[str], Checkpoint],
    native: Kernels,
    reference: Kernels,
    tmp_path: Path,
    architecture: str,
    dtype: torch.dtype,
) -> None:
    case = checkpoint(architecture)
    expected, adapter = peft_case(case, tmp_path, seed=2, dtype=dtype)
    for kernels in (native, reference):
        assert_close(run(runner(case, kernels), TOKENS, [13, 1, 1], adapter), expected)


def test_an_adapter_changes_the_output(
    checkpoint: Callable[[str], Checkpoint], native: Kernels, tmp_path: Path
) -> None:
    case = checkpoint("gemma2")
    expected, _ = peft_case(case, tmp_path, seed=1, r=1, target_modules=["v_proj"])
    assert relative_errors(run(runner(case, native), TOKENS), expected)["logits"] > 0.05


def test_different_adapters_in_one_batch_equal_peft_and_their_own_run_alone(
    checkpoint: Callable[[str], Checkpoint], native: Kernels, tmp_path: Path
) -> None:
    case = checkpoint("gemma3")
    cases = {
        "none": (checkpoints.trace(case.oracle, TOKENS), None),
        "float32": peft_case(case, tmp_path / "a", seed=1, r=16),
        "bfloat16": peft_case(case, tmp_path / "b", seed=2, dtype=torch.bfloat16, r=1),
        "float16": peft_case(case, tmp_path / "c", seed=3, dtype=torch.float16, r=4, target_modules=FEED_FORWARD),
    }
    shared = runner(case, native)
    blocks = Blocks(shared)
    parts: dict[str, list[Trace]] = {name: [] for name in cases}
    sequences = {name: blocks.sequence(TOKENS, adapter) for name, (_, adapter) in cases.items()}
    lengths = {"none": [1, 20, 39], "float32": [30, 1, 29], "bfloat16": [57, 2, 1], "float16": [20, 20, 20]}
    for turn in range(3):
        chunks = [Chunk(sequence, lengths[name][turn]) for name, sequence in sequences.items()]
        for name, trace in zip(sequences, step(shared, *chunks), strict=True):
            parts[name].append(trace)
    for name, (expected, adapter) in cases.items():
        together = Trace.join(parts[name])
        assert_close(together, expected)
        assert_identical(together, run(runner(case, native), TOKENS, adapter=adapter))


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_a_zero_adapter_is_the_base_bit_for_bit(
    checkpoint: Callable[..., Checkpoint], native: Kernels, tmp_path: Path, architecture: str, quantize: str
) -> None:
    case = checkpoint(architecture, quantize=quantize)
    config = case.weights.config
    pairs = random_pairs(config.modules, len(config.layers), rank=4, seed=1)
    zero = {key: Pair(pair.a, torch.zeros_like(pair.b), 2.0) for key, pair in pairs.items()}
    adapter = loader(case, tmp_path).load(write_adapter(tmp_path, zero))
    assert_identical(run(runner(case, native), TOKENS, adapter=adapter), run(runner(case, native), TOKENS))


def test_a_used_adapter_leaves_no_memory_behind(
    checkpoint: Callable[[str], Checkpoint], native: Kernels, tmp_path: Path
) -> None:
    case = checkpoint("gemma2")
    config = case.weights.config
    ref = write_adapter(tmp_path, random_pairs(config.modules, len(config.layers), rank=4, seed=1))
    adapter = loader(case, tmp_path).load(ref)
    matrices = [weakref.ref(matrix) for pair in adapter.pairs.values() for matrix in (pair.a, pair.b)]
    run(runner(case, native), TOKENS, adapter=adapter)
    del adapter
    assert {found() for found in matrices} == {None}
