"""The base as PyTorch computes it, frozen, with an adapter that learns.

The residual stream is float32; matrix products are computed in bfloat16 where the processor can, as mixed precision
does elsewhere.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoConfig

from gemlora.engines.cpu.weights.checkpoint import Checkpoint
from gemlora.engines.cpu.weights.huggingface_export import huggingface_document, huggingface_tensors
from gemlora.training.encoding import Encoded
from gemlora.training.loss import head_loss
from gemlora.training.plan import Plan


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where products in it are fast."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


@dataclass(frozen=True, slots=True)
class Loss:
    """Sum of the cross-entropies in nats of so many learnt tokens."""

    total: torch.Tensor
    tokens: int


class TrainableBase:
    """A base with one LoRA adapter; only the adapter learns."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._scale = checkpoint.config.embedding_scale
        self._softcap = checkpoint.config.logit_softcap
        torch.manual_seed(plan.seed)
        self._model = _adapted(_model(checkpoint, dtype).to(device), _lora(plan, checkpoint.name))
        for parameter in self.parameters():
            parameter.data = parameter.data.float()
        inner = self._model.get_base_model()
        self._decoder, self._embedding = inner.model, inner.model.embed_tokens.weight
        self._head = inner.lm_head.weight

    def parameters(self) -> list[torch.nn.Parameter]:
        """What learns, in a fixed order."""
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def weights(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors by PEFT's names, float32 copies."""
        return {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The adapter's own; without the last argument PEFT asks a hub whether the vocabulary was resized."""
        tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(self._model, save_embedding_layers=False)
        return tensors

    def set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Put an adapter in the place of the one there is."""
        set_peft_model_state_dict(self._model, weights)

    def adapter_config(self) -> LoraConfig:
        """PEFT's configuration of the adapter."""
        return self._model.peft_config["default"]

    @contextmanager
    def learning(self, seed: int) -> Iterator[None]:
        """Within it dropout is on, drawn by the seed."""
        torch.manual_seed(seed)
        self._model.train()
        try:
            yield
        finally:
            self._model.eval()

    def loss(self, examples: Sequence[Encoded]) -> Loss:
        """The loss of examples that are computed at once."""
        ids, mask, learnt = _padded(examples)
        targets = ids[:, 1:][learnt[:, 1:]].to(self._device)
        embedded = torch.nn.functional.embedding(ids[:, :-1].to(self._device), self._embedding).float() * self._scale
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            hidden = self._decoder(
                inputs_embeds=embedded, attention_mask=mask[:, :-1].to(self._device), use_cache=False
            ).last_hidden_state
        rows = hidden[learnt[:, 1:].to(self._device)]
        return Loss(head_loss(rows, self._head, targets, self._softcap), len(targets))


def _model(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """transformers' model of a checkpoint."""
    document = huggingface_document(
        checkpoint.config, tied="head" not in checkpoint.tensors, dtype=str(dtype).removeprefix("torch.")
    )
    transformers.utils.logging.disable_progress_bar()
    attention = "sdpa" if checkpoint.config.attention_softcap is None else "eager"
    weights = {name: torch.from_numpy(values).to(dtype) for name, values in huggingface_tensors(checkpoint)}
    model = getattr(transformers, document["architectures"][0]).from_pretrained(
        None, config=AutoConfig.for_model(**document), state_dict=weights, dtype=dtype, attn_implementation=attention
    )
    model.name_or_path = checkpoint.name
    return model.requires_grad_(False).eval()


def _adapted(model: Any, config: LoraConfig) -> Any:
    """The model with a new adapter. PEFT asks for an attribute that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)


def _lora(plan: Plan, base: str) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        r=plan.rank,
        lora_alpha=plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=list(plan.modules),
    )


def _padded(examples: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, which of them are no padding, and which are learnt, each [examples, longest]."""
    shape = (len(examples), max(len(example.ids) for example in examples))
    ids, mask, learnt = (torch.zeros(shape, dtype=kind) for kind in (torch.long, torch.long, torch.bool))
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids[row, :length] = torch.tensor(example.ids)
        mask[row, :length] = 1
        learnt[row, :length] = torch.tensor(example.learnt)
    return ids, mask, learnt
