"""A merged model computes what PEFT's unmerged one does, and holds what PEFT merges into its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints import VOCABULARY, trace
from tests.conversion.conftest import LAYERS, Case
from transformers import AutoModelForCausalLM

from gemlora.conversion.adapter_folder import opened_adapter
from gemlora.conversion.exporting import Export, Exported, export
from gemlora.conversion.merging import MergedCheckpoint, merge
from gemlora.engines.cpu.weights.huggingface_checkpoint import opened_folder
from gemlora.engines.cpu.weights.huggingface_export import huggingface_tensors
from gemlora.engines.cpu.weights.progress import silent
from gemlora.engines.cpu.weights.source import FolderSource
from gemlora.errors import AdapterInvalid

TOKENS = np.random.default_rng(6).integers(0, VOCABULARY, 40).tolist()
EVERYTHING = [*LAYERS, "embed_tokens", "lm_head"]

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora, patterns": {
        "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3},
    },
    "some layers": {"target_modules": ["o_proj"], "layers_to_transform": [1]},
    "dora": {"use_dora": True},
    "embedding": {"target_modules": ["embed_tokens"]},
    "head": {"target_modules": ["lm_head"]},
    "everything, dora": {"target_modules": EVERYTHING, "use_dora": True},
}  # fmt: skip


def merged(case: Case, adapter: Path, output: Path, **wanted: Any) -> Exported:
    wanted = {"format": "huggingface", "dtype": "float32", **wanted}
    return export(FolderSource(case.folder), ("x", adapter), Export(output, **wanted), silent)


@pytest.mark.parametrize("architecture", ["gemma1_mqa", "gemma3", "gemma2_untied"])
def test_transformers_computes_the_same_from_every_variant(
    case: Callable[[str], Case], tmp_path: Path, architecture: str
) -> None:
    base = case(architecture)
    untouched = trace(base.oracle, TOKENS).logits
    for name, keys in VARIANTS.items():
        model, folder = base.adapter(**keys)
        merged(base, folder, tmp_path / name)
        loaded = AutoModelForCausalLM.from_pretrained(
            tmp_path / name, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        expected, found = trace(model, TOKENS).logits, trace(loaded, TOKENS).logits
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max(), name
        assert np.abs(found - untouched).max() > 1e-2 * np.abs(expected).max(), name


@pytest.mark.parametrize("name", ["rslora, patterns", "everything, dora"])
def test_weights_are_those_that_peft_merges(case: Callable[[str], Case], name: str) -> None:
    base = case("gemma2_untied")
    model, folder = base.adapter(**VARIANTS[name])
    with opened_folder(base.folder) as checkpoint, opened_adapter(folder, checkpoint) as adapter:
        found = dict(huggingface_tensors(merge(checkpoint, adapter)))
    expected = model.merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    for tensor, values in found.items():
        np.testing.assert_allclose(values, expected[tensor].numpy(), rtol=1e-5, atol=1e-6, err_msg=tensor)


def notes(case: Case, adapter: Path) -> tuple[MergedCheckpoint, tuple[str, ...]]:
    with opened_folder(case.folder) as checkpoint, opened_adapter(adapter, checkpoint) as opened:
        result = merge(checkpoint, opened)
        return result, result.notes


def test_a_matrix_for_both_becomes_two_only_where_it_must(case: Callable[[str], Case]) -> None:
    base, untied = case("gemma1_mqa"), case("gemma2_untied")
    assert "head" not in notes(base, base.adapter()[1])[0].tensors
    for keys in ({"target_modules": ["embed_tokens"]}, {"target_modules": ["lm_head"]}):
        result, told = notes(base, base.adapter(**keys)[1])
        assert "head" in result.tensors
        assert any("two matrices now" in note for note in told)
    assert not any("two matrices" in note for note in notes(untied, untied.adapter(target_modules=["lm_head"])[1])[1])


def test_a_pair_that_is_tied_leaves_the_matrix_one(case: Callable[[str], Case], tmp_path: Path) -> None:
    base = case("gemma1_mqa")
    _, folder = base.adapter(target_modules=["embed_tokens", "lm_head"])
    tensors = load_file(folder / "adapter_model.safetensors")
    a, b = (
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.embed_tokens.lora_embedding_B",
    )
    tensors["base_model.model.lm_head.lora_A.weight"] = tensors[b].T.contiguous()
    tensors["base_model.model.lm_head.lora_B.weight"] = tensors[a].T.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    result, told = notes(base, folder)
    assert "head" not in result.tensors
    assert not any("two matrices" in note for note in told)
    exported = merged(base, folder, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_bytes())["tie_word_embeddings"] is True
    weights = load_file(tmp_path / "out/model.safetensors")
    changed = base.oracle.get_input_embeddings().weight + 1.5 * (tensors[b] @ tensors[a]).T
    torch.testing.assert_close(weights["model.embed_tokens.weight"], changed.detach())
    assert exported.size == sum(tensor.nbytes for tensor in weights.values())


def test_what_peft_saved_of_the_embedding_takes_the_bases_place(case: Callable[[str], Case]) -> None:
    base = case("gemma1_mqa")
    _, folder = base.adapter(target_modules=["embed_tokens"])
    tensors = load_file(folder / "adapter_model.safetensors")
    copies = [name for name in tensors if name.endswith("base_layer.weight")]
    assert copies
    for name in copies:
        tensors[name] = tensors[name] * 2
    save_file(tensors, folder / "adapter_model.safetensors")
    a, b = (
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.embed_tokens.lora_embedding_B",
    )
    with opened_folder(base.folder) as checkpoint, opened_adapter(folder, checkpoint) as opened:
        result = merge(checkpoint, opened)
        found = dict(huggingface_tensors(result))
    doubled = 2 * base.oracle.get_input_embeddings().weight.detach()
    np.testing.assert_allclose(
        found["model.embed_tokens.weight"], (doubled + 1.5 * (tensors[b] @ tensors[a]).T).numpy(), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(found["lm_head.weight"], doubled.numpy())
    assert any("PEFT saved" in note for note in result.notes)


def test_copies_that_differ_from_each_other_are_refused(case: Callable[[str], Case]) -> None:
    base = case("gemma1_mqa")
    _, folder = base.adapter(target_modules=["embed_tokens", "lm_head"])
    tensors = load_file(folder / "adapter_model.safetensors")
    copies = [name for name in tensors if name.endswith("base_layer.weight")]
    assert len(copies) == 2
    tensors[copies[0]][-1, -1] += 1
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterInvalid, match="differ, though the base has one matrix"):
        notes(base, folder)


def test_an_adapter_that_does_not_fit_is_refused(case: Callable[[str], Case], tmp_path: Path) -> None:
    small, other = case("gemma1_mqa"), case("gemma2")
    with pytest.raises(AdapterInvalid, match="has only 3 layers"):
        merged(small, other.adapter()[1], tmp_path / "out")
    assert not list(tmp_path.iterdir())
