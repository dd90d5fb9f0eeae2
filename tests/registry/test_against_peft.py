"""For adapters that PEFT made, the manifest has exactly PEFT's modules, ranks and scales."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from tests.adapters import described, peft_model, save_peft
from tests.checkpoints import random_model
from transformers import PreTrainedModel

from gemlora.registry.models import AdapterLimits, Base
from gemlora.registry.validation import CheckedAdapter, check_adapter, read_config
from gemlora.storage.manifest import AdapterManifest

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

pytestmark = [
    # PEFT asks transformers by the old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`:UserWarning"),
]

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
    "DoRA": LoraConfig(r=4, lora_alpha=7, target_modules=SEVEN, use_dora=True),
    "DoRA with rsLoRA and patterns": LoraConfig(
        r=4, use_dora=True, use_rslora=True, target_modules=["q_proj", "up_proj"], rank_pattern={"up_proj": 2}
    ),
    "embedding": LoraConfig(r=2, lora_alpha=5, target_modules=["embed_tokens"]),
    "embedding by its whole name": LoraConfig(r=2, target_modules=["model.embed_tokens", "v_proj"]),
    "embedding by expression": LoraConfig(r=2, target_modules=r".*(embed_tokens|q_proj)"),
    "head": LoraConfig(r=2, lora_alpha=5, target_modules=["lm_head"]),
    "head and layers": LoraConfig(r=2, target_modules=["lm_head", "q_proj"], rank_pattern={"lm_head": 3}),
    "embedding and head": LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"], alpha_pattern={"lm_head": 3}),
    "embedding beside layers_to_transform": LoraConfig(
        r=2, target_modules=["embed_tokens", "model.embed_tokens", "q_proj", "lm_head"], layers_to_transform=[1]
    ),
    "DoRA on embedding, head and layers": LoraConfig(
        r=2, target_modules=["embed_tokens", "lm_head", "o_proj"], use_dora=True
    ),
    "embedding tied to the head": LoraConfig(r=2, target_modules=["embed_tokens", "k_proj"], ensure_weight_tying=True),
    "head tied to the embedding": LoraConfig(r=2, target_modules=["lm_head"], ensure_weight_tying=True),
    "both tied": LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True),
    "tied by expression": LoraConfig(r=2, target_modules=r".*embed_tokens", ensure_weight_tying=True),
    "tied DoRA": LoraConfig(r=2, target_modules=["embed_tokens"], use_dora=True, ensure_weight_tying=True),
    "tying without an embedding": LoraConfig(r=2, target_modules=["q_proj"], ensure_weight_tying=True),
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
    vocabulary, hidden = model.model.embed_tokens.weight.shape
    return Base("tiny", "gemma", "0" * 64, "none", 64, len(model.model.layers), vocabulary, modules, hidden, tied=True)


def checked(folder: Path, base: Base) -> CheckedAdapter:
    config = read_config((folder / "adapter_config.json").read_bytes())
    return check_adapter(config, folder / "adapter_model.safetensors", base, AdapterLimits())


@pytest.mark.parametrize("case", CONFIGS)
def test_the_manifest_says_what_pefts_model_computes(case: str, base_model: PreTrainedModel, tmp_path: Path) -> None:
    folder = save_peft(peft_model(base_model, CONFIGS[case], seed=1), tmp_path)
    # Loaded again, because PEFT sorts the patterns when it saves them.
    model = PeftModel.from_pretrained(deepcopy(base_model), folder)
    expected = AdapterManifest.read(Path(described(model, folder).manifest))

    result = checked(folder, facts(base_model))

    assert set(result.manifest.modules) == set(expected.modules)
    assert result.manifest.embedding == expected.embedding
    assert result.manifest.head == expected.head
    assert set(result.manifest.copies) == set(expected.copies)
    assert result.manifest.weights_digest == expected.weights_digest
    parts = [*expected.modules, *(part for part in (expected.embedding, expected.head) if part)]
    assert result.rank == max(part.rank for part in parts)
    assert [warning for warning in result.warnings if "effect" in warning] == []


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
