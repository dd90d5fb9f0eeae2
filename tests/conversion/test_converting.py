"""Adapters of other kinds as plain LoRA: the registry accepts them, and PEFT computes the same changes from them."""

import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from tests.conversion.conftest import Case

from gemlora.conversion.adapter_folder import opened_adapter
from gemlora.conversion.converting import convert
from gemlora.conversion.lora_pairs import LoraPairs
from gemlora.engines.cpu.weights.huggingface_checkpoint import opened_folder
from gemlora.errors import AdapterIncomplete, AdapterInvalid, InvalidRequest, WeightsInvalid

Change = dict[str, torch.Tensor]
"""What an adapter adds to each module's weights."""


def randomised(base: Case, config: Any, folder: Path) -> tuple[PeftModel, Path]:
    """PEFT's model with random numbers in all its parameters, and the folder that it saves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(deepcopy(base.oracle), config).eval()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "ranknum" not in name:
                    parameter.normal_(0, 0.3, generator=generator)
        model.save_pretrained(str(folder))
    return model, folder


def changes(model: PeftModel) -> Change:
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").detach()
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    }


def converted(source: Path, output: Path, **more: Any) -> LoraPairs:
    return convert(source, output, **{"initial": None, "max_rank": 256, "replace": False, **more})


def assert_computes(base: Case, folder: Path, expected: Change) -> None:
    """The registry accepts the folder on the base, and PEFT reads the expected changes from it."""
    with opened_folder(base.folder) as checkpoint, opened_adapter(folder, checkpoint) as adapter:
        assert len(adapter.manifest.modules) + (adapter.manifest.embedding is not None) == len(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = changes(PeftModel.from_pretrained(deepcopy(base.oracle), str(folder)))
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        torch.testing.assert_close(found[name], change, rtol=1e-5, atol=1e-5 * float(change.abs().max()))


KINDS: dict[str, tuple[Any, int]] = {
    "lokr, w2 in two": (LoKrConfig(r=2, alpha=6, target_modules=["q_proj", "down_proj"], init_weights=False), 16),
    "lokr, both in two": (
        LoKrConfig(r=2, alpha=3, target_modules=["up_proj"], decompose_both=True, init_weights=False), 4,
    ),
    "lokr, whole": (LoKrConfig(r=64, alpha=3, target_modules=["v_proj"], init_weights=False), 32),
    "lokr, patterns": (
        LoKrConfig(
            r=2, alpha=6, target_modules=["q_proj"], decompose_factor=4, init_weights=False,
            alpha_pattern={"layers.1.self_attn.q_proj": 9},
        ), 8,
    ),
    "loha": (LoHaConfig(r=3, alpha=5, target_modules=["k_proj", "gate_proj"], init_weights=False), 9),
    "loha, patterns": (
        LoHaConfig(r=3, alpha=5, target_modules=["k_proj"], rank_pattern={"layers.1.self_attn.k_proj": 2}), 9,
    ),
    "adalora": (
        AdaLoraConfig(init_r=5, target_r=3, total_step=10, lora_alpha=7, target_modules=["o_proj", "v_proj"]), 5,
    ),
}  # fmt: skip
"""A config and the highest rank of its conversion on `gemma1_mqa`."""


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_becomes_lora_with_the_same_effect(case: Callable[[str], Case], tmp_path: Path, name: str) -> None:
    base, (config, rank) = case("gemma1_mqa"), KINDS[name]
    model, folder = randomised(base, deepcopy(config), tmp_path / "in")
    pairs = converted(folder, tmp_path / "out")
    assert pairs.rank == rank
    assert pairs.difference < 1e-6
    assert_computes(base, tmp_path / "out", changes(model))


def test_a_matrix_of_low_rank_gives_a_lower_rank(case: Callable[[str], Case], tmp_path: Path) -> None:
    base = case("gemma1_mqa")
    config = LoKrConfig(r=2, alpha=6, target_modules=["q_proj"], init_weights=False)
    model, folder = randomised(base, config, tmp_path / "in")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lokr_w1" in name:
                parameter.copy_(torch.outer(parameter[:, 0], parameter[0]))
        model.save_pretrained(str(folder))
    assert converted(folder, tmp_path / "out").rank == 2
    assert_computes(base, tmp_path / "out", changes(model))


@pytest.mark.parametrize("initialisation", ["pissa", "olora"])
def test_what_training_began_with_is_taken_off(
    case: Callable[[str], Case], tmp_path: Path, initialisation: str
) -> None:
    base = case("gemma1_mqa")
    targets = ["q_proj", "down_proj"]
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=initialisation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(deepcopy(base.oracle), config).eval()
    model.save_pretrained(str(tmp_path / "begun"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(tmp_path / "trained"))
    with pytest.raises(AdapterInvalid, match="--initial"):
        converted(tmp_path / "trained", tmp_path / "out")
    pairs = converted(tmp_path / "trained", tmp_path / "out", initial=tmp_path / "begun")
    assert pairs.rank == 6
    merged, original = model.merge_and_unload().state_dict(), base.oracle.state_dict()
    expected = {
        name.removesuffix(".weight"): merged[name] - original[name]
        for name in original
        if name.split(".")[-2] in targets
    }
    assert_computes(base, tmp_path / "out", expected)


def write_gguf_lora(path: Path, tensors: dict[str, Any], alpha: float = 6.0, **metadata: Any) -> None:
    writer = gguf.GGUFWriter(path, metadata.pop("architecture", "gemma"))
    writer.add_type(metadata.pop("type", "adapter"))
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for key, value in metadata.items():
        writer.add_array(key.replace("__", "."), value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tensors(folder: Path, dtype: Any = np.float32) -> dict[str, Any]:
    """What llama.cpp's converter writes for a PEFT folder of these modules."""
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.o_proj": "attn_output",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    tensors = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        values = tensor.numpy().astype(dtype)
        parts = name.removeprefix("base_model.model.model.").split(".")
        if parts[0] == "embed_tokens":
            if parts[1] != "base_layer":
                side = parts[1][-1].lower()
                tensors[f"token_embd.weight.lora_{side}"] = values.T if side == "a" else values
        elif parts[0] == "layers":
            tensors[f"blk.{parts[1]}.{names['.'.join(parts[2:4])]}.weight.{parts[4].lower()}"] = values
    return tensors


def test_a_gguf_lora_becomes_the_folder_that_it_came_from(case: Callable[[str], Case], tmp_path: Path) -> None:
    base = case("gemma1_mqa")
    targets = ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj", "embed_tokens"]
    model, folder = base.adapter(r=4, lora_alpha=6, target_modules=targets, rank_pattern={"k_proj": 2})
    write_gguf_lora(tmp_path / "x.gguf", gguf_tensors(folder))
    pairs = converted(tmp_path / "x.gguf", tmp_path / "out")
    assert (pairs.rank, len(pairs.pairs)) == (4, 16)
    assert_computes(base, tmp_path / "out", changes(model))


def test_a_gguf_lora_without_alpha_is_not_scaled(case: Callable[[str], Case], tmp_path: Path) -> None:
    base = case("gemma1_mqa")
    own = {"layers.1.self_attn.q_proj": 2}
    model, folder = base.adapter(r=4, lora_alpha=4, target_modules=["q_proj"], rank_pattern=own, alpha_pattern=own)
    write_gguf_lora(tmp_path / "x.gguf", gguf_tensors(folder), alpha=0.0)
    converted(tmp_path / "x.gguf", tmp_path / "out")
    assert_computes(base, tmp_path / "out", changes(model))


def test_half_precision_of_a_gguf_lora_is_kept(case: Callable[[str], Case], tmp_path: Path) -> None:
    _, folder = case("gemma1_mqa").adapter(target_modules=["q_proj"])
    tensors = gguf_tensors(folder, np.float16)
    write_gguf_lora(tmp_path / "x.gguf", tensors)
    converted(tmp_path / "x.gguf", tmp_path / "out")
    written = load_file(tmp_path / "out/adapter_model.safetensors")
    found = written["base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight"].numpy()
    np.testing.assert_array_equal(found, tensors["blk.2.attn_q.weight.lora_b"].astype(np.float32))


A, B = np.ones((2, 8), np.float32), np.ones((8, 2), np.float32)
PAIR = {"blk.0.attn_q.weight.lora_a": A, "blk.0.attn_q.weight.lora_b": B}


@pytest.mark.parametrize(
    ("tensors", "metadata", "reason"),
    [
        ({}, {}, "holds no LoRA pair"),
        ({"blk.0.attn_q.weight.lora_a": A}, {}, "lora_b is missing"),
        (PAIR | {"blk.0.attn_norm.weight": A[0]}, {}, "attn_norm.weight: norms are no LoRA pairs"),
        (PAIR | {"blk.0.what.weight.lora_a": A}, {}, "what.weight.lora_a: is unknown"),
        (PAIR | {"blk.0.attn_q.weight.lora_b": np.ones((8, 3), np.float32)}, {}, "rank 2, and lora_b 3"),
        (PAIR, {"architecture": "llama"}, "general.architecture is 'llama'"),
        (PAIR, {"type": "model"}, "general.type is 'model'"),
        (PAIR, {"adapter__alora__invocation_tokens": [1, 2]}, "activated LoRA"),
    ],
)
def test_a_gguf_file_that_is_no_plain_lora_is_refused(
    tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, Any], reason: str
) -> None:
    write_gguf_lora(tmp_path / "x.gguf", tensors, **metadata)
    with pytest.raises(AdapterInvalid, match=reason):
        converted(tmp_path / "x.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_converted_is_refused_with_the_reason(case: Callable[[str], Case], tmp_path: Path) -> None:
    base = case("gemma1_mqa")
    config = LoKrConfig(r=64, alpha=6, target_modules=["q_proj"], init_weights=False)
    _, lokr = randomised(base, config, tmp_path / "lokr")
    with pytest.raises(AdapterInvalid, match=r"q_proj: as LoRA this LoKr has rank \d+, more than max_adapter_rank, 32"):
        converted(lokr, tmp_path / "out", max_rank=32)
    with pytest.raises(AdapterInvalid, match="LoRA or DoRA already"):
        converted(base.adapter(use_dora=True)[1], tmp_path / "out")
    for change, reason in (
        ({"peft_type": "C3A"}, "peft_type is 'C3A'; only LoRA is supported; convert it with peft.save_as_lora"),
        ({"peft_type": None}, "peft_type is 'None'; only LoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"secret_twist": 3}, "secret_twist"),
        ({"target_modules": ["k_proj"]}, "is not targeted"),
    ):
        document = json.loads((lokr / "adapter_config.json").read_bytes()) | change
        (tmp_path / "changed").mkdir(exist_ok=True)
        (tmp_path / "changed/adapter_config.json").write_text(json.dumps(document))
        (tmp_path / "changed/adapter_model.safetensors").write_bytes((lokr / "adapter_model.safetensors").read_bytes())
        with pytest.raises(AdapterInvalid, match=reason):
            converted(tmp_path / "changed", tmp_path / "out")
    tensors = load_file(lokr / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.x.lokr_t2": torch.ones(2)}, tmp_path / "changed/adapter_model.safetensors")
    (tmp_path / "changed/adapter_config.json").write_bytes((lokr / "adapter_config.json").read_bytes())
    with pytest.raises(AdapterInvalid, match="lokr_t2 is none of"):
        converted(tmp_path / "changed", tmp_path / "out")
    _, loha = randomised(base, deepcopy(KINDS["loha"][0]), tmp_path / "loha")
    document = json.loads((loha / "adapter_config.json").read_bytes()) | {"r": 4}
    (loha / "adapter_config.json").write_text(json.dumps(document))
    with pytest.raises(AdapterInvalid, match=r"has rank 3; adapter_config.json says 4"):
        converted(loha, tmp_path / "out")
    first = next(iter(tensors))
    save_file({first: tensors[first]}, tmp_path / "changed/adapter_model.safetensors")
    with pytest.raises(AdapterInvalid, match="LoKr tensors do not go together"):
        converted(tmp_path / "changed", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_none_are_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03")
    (tmp_path / "empty").mkdir()
    for name, error in (
        ("nothing", AdapterIncomplete), ("text", InvalidRequest), ("broken.gguf", WeightsInvalid),
        ("empty", AdapterIncomplete), ("out", InvalidRequest),
    ):  # fmt: skip
        with pytest.raises(error):
            converted(tmp_path / name, tmp_path / "out")


def test_an_adapter_that_is_there_is_replaced_only_when_asked(case: Callable[[str], Case], tmp_path: Path) -> None:
    base = case("gemma1_mqa")
    _, lokr = randomised(base, deepcopy(KINDS["lokr, both in two"][0]), tmp_path / "in")
    converted(lokr, tmp_path / "out")
    with pytest.raises(InvalidRequest, match="--force replaces it"):
        converted(lokr, tmp_path / "out")
    converted(lokr, tmp_path / "out", replace=True)
    with pytest.raises(InvalidRequest, match="holds something else"):
        converted(lokr, base.folder, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
