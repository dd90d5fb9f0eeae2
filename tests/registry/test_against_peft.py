"""For adapters that PEFT made, the manifest has exactly PEFT's modules, ranks and scales."""

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tests.adapters import peft_model, save_peft
from tests.checkpoints import random_model
from transformers import PreTrainedModel

from gemlora.registry.models import AdapterLimits, Base
from gemlora.registry.validation import CheckedAdapter, check_adapter, read_config

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# PEFT asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CONFIGS = {
    "plain": LoraConfig(r=4, lora_alpha=7, target_modules=["q_proj", "v_proj"]),
    "default targets": LoraConfig(r=2),
    "rsLoRA": LoraConfig(r=8, lora_alpha=16, use_rslora=True, target_modules=SEVEN),
    "all-linear": LoraConfig(r=3, target_modules="all-linear"),
    "expression": LoraConfig(r=3, target_modules=r".*layers\.[02]\..*\.(?:q|k)_proj"),
    "rank_pattern": LoraConfig(r=4, target_modules=SEVEN, rank_pattern={"q_proj": 2, "mlp.up_proj": 6}),
    "alpha_pattern": LoraConfig(r=4, target_modules=SEVEN, alpha_pattern={"layers.1.mlp.down_proj": 2, "down_proj": 3}),
    "both patterns and rsLoRA": LoraConfig(
        r=4,
        lora_alpha=5,
        use_rslora=True,
        target_modules=SEVEN,
        rank_pattern={r"model\.layers\.0\..*": 3, "^model.layers.1.self_attn.q_proj": 5, "q_proj": 6},
        alpha_pattern={r".*[kv]_proj": 9, "v_proj": 10, ".*proj": 11},
    ),
    "layers_to_transform": LoraConfig(r=2, target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 2]),
    "layers_pattern": LoraConfig(r=2, target_modules=["o_proj"], layers_to_transform=1, layers_pattern="layers"),
    "whole name beside layers_to_transform": LoraConfig(
        r=2, target_modules=["q_proj", "model.layers.1.mlp.up_proj"], layers_to_transform=[0]
    ),
    "exclude_modules": LoraConfig(r=2, target_modules=SEVEN, exclude_modules=["layers.0.self_attn.q_proj", "o_proj"]),
    "excluded by expression": LoraConfig(r=2, target_modules="all-linear", exclude_modules=r".*\.mlp\..*"),
    "gaussian": LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="gaussian", task_type="CAUSAL_LM"),
    "orthogonal": LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="orthogonal"),
}


@pytest.fixture(scope="module")
def base_model() -> PreTrainedModel:
    return random_model("gemma1_mqa")


def facts(model: PreTrainedModel) -> Base:
    layer = model.model.layers[0]
    linears = {
        name.rsplit(".", 1)[-1]: part for name, part in layer.named_modules() if isinstance(part, torch.nn.Linear)
    }
    modules = {name: (part.out_features, part.in_features) for name, part in linears.items()}
    return Base("tiny", "gemma", "0" * 64, "none", 64, len(model.model.layers), 320, modules)


def peft_layers(model: PeftModel) -> Iterator[tuple[int, str, LoraLayer]]:
    for name, part in model.named_modules():
        if isinstance(part, LoraLayer):
            layer, module = re.fullmatch(r".*layers\.(\d+)\.\w+\.(\w+)", name).groups()
            yield int(layer), module, part


def checked(folder: Path, base: Base) -> CheckedAdapter:
    config = read_config((folder / "adapter_config.json").read_bytes())
    return check_adapter(config, folder / "adapter_model.safetensors", base, AdapterLimits())


@pytest.mark.parametrize("case", CONFIGS)
def test_the_manifest_has_pefts_modules_ranks_and_scales(
    case: str, base_model: PreTrainedModel, tmp_path: Path
) -> None:
    folder = save_peft(peft_model(base_model, CONFIGS[case], seed=1), tmp_path)
    # Loaded again, because PEFT sorts the patterns when it saves them.
    model = PeftModel.from_pretrained(deepcopy(base_model), folder)
    expected = {(layer, module): part for layer, module, part in peft_layers(model)}

    result = checked(folder, facts(base_model))

    found = {(pair.layer, pair.module): pair for pair in result.manifest.modules}
    assert found.keys() == expected.keys()
    for place, part in expected.items():
        assert found[place].rank == part.r["default"], place
        assert found[place].scale == part.scaling["default"], place
        assert found[place].a.shape == tuple(part.lora_A["default"].weight.shape)
        assert found[place].b.shape == tuple(part.lora_B["default"].weight.shape)
    assert result.rank == max(part.r["default"] for part in expected.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_manifest_finds_each_tensors_bytes_in_every_dtype(
    dtype: torch.dtype, base_model: PreTrainedModel, tmp_path: Path
) -> None:
    folder = save_peft(peft_model(base_model, CONFIGS["plain"], seed=1, dtype=dtype), tmp_path, dtype)
    content = (folder / "adapter_model.safetensors").read_bytes()
    stored = load_file(folder / "adapter_model.safetensors")

    for pair in checked(folder, facts(base_model)).manifest.modules:
        for tensor in (pair.a, pair.b):
            values = torch.frombuffer(bytearray(content[tensor.offset :][: tensor.size]), dtype=dtype)
            assert torch.equal(values.view(tensor.shape), stored[tensor.name])
