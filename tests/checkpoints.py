"""Tiny random Gemma checkpoints with every variant of the architecture, and their oracle in transformers."""

import io
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from tests.forward import Trace
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    PreTrainedModel,
)

from gemlora.engines.cpu.gemma import Weights

VOCABULARY = 320
CONTEXT = 8192
SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "attn_implementation": "eager",
}


class Checkpoint(NamedTuple):
    """A checkpoint as the oracle and as the engine reads it."""

    oracle: PreTrainedModel
    weights: Weights


def gemma1(**changes: Any) -> PreTrainedModel:
    """As many key/value heads as query heads, and heads · head_dim ≠ hidden: Gemma 7B."""
    return GemmaForCausalLM(GemmaConfig(**{**SHARED, "num_key_value_heads": 4, **changes}))


def gemma1_mqa() -> PreTrainedModel:
    """One key/value head: Gemma 2B. The embedding scale is no power of two."""
    return gemma1(num_key_value_heads=1, hidden_size=80)


def gemma2(**changes: Any) -> PreTrainedModel:
    """Windows on every other layer, both soft-caps low enough to bend, a scale that is not head_dim's."""
    variant = {
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "sliding_window": 24,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
    }
    return Gemma2ForCausalLM(Gemma2Config(**{**SHARED, **variant, **changes}))


def gemma3(**changes: Any) -> PreTrainedModel:
    """Five local layers to one global, head norms, two ropes, the global one stretched: Gemma 3 4B and larger."""
    variant = {
        "num_hidden_layers": 7,
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": 20,
        "sliding_window": 40,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
        },
    }
    return Gemma3ForCausalLM(Gemma3TextConfig(**{**SHARED, **variant, **changes}))


def gemma3_mqa() -> PreTrainedModel:
    """One key/value head and an unstretched global rope: Gemma 3 270M and 1B."""
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
    }
    return gemma3(num_key_value_heads=1, sliding_window=32, rope_parameters=ropes)


ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma1": gemma1,
    "gemma1_mqa": gemma1_mqa,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3_mqa": gemma3_mqa,
}

UNTIED: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma1_untied": lambda: gemma1(tie_word_embeddings=False),
    "gemma2_untied": lambda: gemma2(tie_word_embeddings=False),
    "gemma3_untied": lambda: gemma3(tie_word_embeddings=False),
}
"""With a head of their own; no Gemma is published so, but the file formats allow it."""


def random_model(architecture: str, seed: int = 0) -> PreTrainedModel:
    """A float32 model in which no weight is trivial: norms differ from 1, and activations keep a size of about 1."""
    generator = torch.Generator().manual_seed(seed)
    model = {**ARCHITECTURES, **UNTIED}[architecture]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(0, 0.3, generator=generator)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    return model


def save(model: PreTrainedModel, folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Write a Hugging Face folder with a tokenizer. Returns the float32 oracle of what was written."""
    model.to(dtype).save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.model")
    # Converting the model back would leave its rope frequencies rounded.
    oracle = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    oracle.model.embed_tokens.embed_scale = torch.tensor(model.config.hidden_size**0.5).to(dtype).float()
    return oracle


def with_matrices_of(weights: Weights, oracle: PreTrainedModel) -> PreTrainedModel:
    """The oracle with the engine's matrices, as they are after rounding, in place of its own."""
    changed = deepcopy(oracle)
    with torch.no_grad():
        changed.get_input_embeddings().weight[:] = torch.from_numpy(weights.matrix("embedding").dequantised())
        for index, layer in enumerate(changed.get_decoder().layers):
            for name, module in layer.named_modules():
                if isinstance(module, torch.nn.Linear):
                    matrix = weights.matrix(f"layers.{index}.{name.rpartition('.')[2]}")
                    module.weight[:] = torch.from_numpy(matrix.dequantised())
    return changed


def trace(model: PreTrainedModel, tokens: Sequence[int]) -> Trace:
    """What the oracle computes for one sequence."""
    hidden: list[NDArray[np.float32]] = []

    def keep(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        hidden.append((output[0] if isinstance(output, tuple) else output)[0].numpy())

    decoder = model.get_decoder()
    hooks = [part.register_forward_hook(keep) for part in (decoder.embed_tokens, *decoder.layers)]
    with torch.inference_mode():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    for hook in hooks:
        hook.remove()
    return Trace(hidden, logits)


def write_tokenizer(path: Path) -> None:
    """A SentencePiece model in Gemma's manner: byte fallback, no dummy prefix, turn markers as control pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog", "what is the answer to the question"]),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"],
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
