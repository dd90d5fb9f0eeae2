"""The base that learns computes what transformers computes of the same files, and leaves an adapter that PEFT reads."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from tests.training.conftest import Opened, sequences
from transformers import AutoModelForCausalLM

from gemlora.training.base import best_dtype
from gemlora.training.plan import Plan

PLAN = Plan(rank=4, alpha=8.0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("architecture", ["gemma1", "gemma2", "gemma3"])
def test_losses_and_gradients_are_those_of_transformers_and_peft(
    architecture: str, opened: Opened, folders: dict[str, Path], tmp_path: Path
) -> None:
    base = opened(architecture, PLAN)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(one.shape, generator=generator) / 8 for name, one in base.weights().items()}
    base.set_weights(weights)
    examples = sequences(5, 3)
    loss = base.loss(examples)
    loss.total.backward()

    save_file(weights, tmp_path / "adapter_model.safetensors")
    base.adapter_config().save_pretrained(tmp_path)
    oracle = AutoModelForCausalLM.from_pretrained(
        folders[architecture], dtype=torch.float32, attn_implementation="eager"
    )
    oracle = PeftModel.from_pretrained(oracle, tmp_path, is_trainable=True).eval()
    expected = torch.zeros(())
    for one in examples:
        logits = oracle(torch.tensor([one.ids])).logits[0, :-1]
        targets = torch.tensor([token if learnt else -100 for token, learnt in zip(one.ids, one.learnt, strict=True)])
        expected = expected + torch.nn.functional.cross_entropy(logits, targets[1:], reduction="sum")
    expected.backward()
    assert loss.tokens == sum(one.learnt_tokens for one in examples)
    torch.testing.assert_close(loss.total, expected, rtol=1e-4, atol=1e-3)
    gradients = [one.grad for one in oracle.parameters() if one.requires_grad]
    for ours, theirs in zip(base.parameters(), gradients, strict=True):
        torch.testing.assert_close(ours.grad, theirs, rtol=2e-3, atol=2e-3)


def test_only_the_adapter_learns(opened: Opened) -> None:
    base = opened("gemma3", Plan(rank=4, modules=("q_proj",)))
    assert len(base.parameters()) == len(base.weights()) > 0
    assert all("q_proj.lora_" in name for name in base.weights())


def test_dropout_is_drawn_by_the_seed(opened: Opened) -> None:
    base = opened("gemma3", Plan(rank=4, dropout=0.5))
    base.set_weights({name: torch.ones_like(one) / 8 for name, one in base.weights().items()})

    def loss(seed: int) -> float:
        with base.learning(seed):
            return base.loss(sequences(2, 3)).total.item()

    assert loss(1) == loss(1) != loss(2)
    assert base.loss(sequences(2, 3)).total.item() == base.loss(sequences(2, 3)).total.item()


@pytest.mark.parametrize(("real", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(
    real: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: real or including_emulation)
    assert best_dtype(torch.device("cuda")) == dtype
