"""The adapters that are made for us and for peers hold the same weights."""

import json
from pathlib import Path

import numpy as np
from benchmarks.gguf_adapters import write_gguf
from benchmarks.peft_adapters import MODULES, Shape, pairs, write_peft
from gguf import GGUFReader
from safetensors.numpy import load_file

SHAPE = Shape(2, dict.fromkeys(MODULES, (48, 32)))


def test_llama_cpps_file_holds_the_weights_of_pefts(tmp_path: Path) -> None:
    peft = load_file(write_peft(tmp_path / "peft", SHAPE, rank=4, seed=7) / "adapter_model.safetensors")
    reader = GGUFReader(write_gguf(tmp_path / "adapter.gguf", SHAPE, 4, 7, "gemma3"))
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}

    for side in "AB":
        ours = peft[f"base_model.model.model.layers.1.mlp.gate_proj.lora_{side}.weight"].astype(np.float32)
        theirs = tensors[f"blk.1.ffn_gate.weight.lora_{side.lower()}"].astype(np.float32)
        np.testing.assert_array_equal(theirs, ours)
    assert len(tensors) == len(peft) == 2 * 2 * len(MODULES)


def test_llama_cpps_file_says_what_it_is(tmp_path: Path) -> None:
    fields = GGUFReader(write_gguf(tmp_path / "adapter.gguf", SHAPE, 4, 0, "gemma3")).fields
    found = {name: fields[name].contents() for name in fields if not name.startswith("GGUF.")}

    assert found == {
        "general.architecture": "gemma3",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }


def test_alpha_is_the_same_in_pefts_configuration(tmp_path: Path) -> None:
    configuration = json.loads((write_peft(tmp_path / "peft", SHAPE, 4, 0) / "adapter_config.json").read_text())

    assert (configuration["r"], configuration["lora_alpha"]) == (4, 8)


def test_other_seeds_give_other_weights_and_equal_ones_the_same() -> None:
    first, again, other = (next(pairs(SHAPE, 4, seed)).a for seed in (1, 1, 2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
