"""A checkpoint in Hugging Face's words: transformers computes from them what it computed from the original."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray
from tests import checkpoints
from tests.checkpoints import ARCHITECTURES, UNTIED, random_model, save
from tests.gguf_files import write_gguf
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.engines.cpu.weights.checkpoint import Checkpoint
from gemlora.engines.cpu.weights.gguf_checkpoint import GgufCheckpoint
from gemlora.engines.cpu.weights.huggingface_checkpoint import opened_folder
from gemlora.engines.cpu.weights.huggingface_config import huggingface_config, tied_embeddings
from gemlora.engines.cpu.weights.huggingface_export import huggingface_document, huggingface_tensors, spelled
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.source import starter_pieces

TOKENS = np.random.default_rng(3).integers(0, checkpoints.VOCABULARY, 70).tolist()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def rebuilt(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model that transformers makes of the document and the tensors alone."""
    document = huggingface_document(checkpoint.config, tied="head" not in checkpoint.tensors, dtype="float32")
    config = AutoConfig.for_model(**document, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    tensors = {name: torch.from_numpy(values.copy()) for name, values in huggingface_tensors(checkpoint)}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert unexpected == []
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *UNTIED])
def test_transformers_computes_the_same_logits(architecture: str, tmp_path: Path) -> None:
    oracle = save(random_model(architecture), tmp_path)
    with opened_folder(tmp_path) as checkpoint:
        model = rebuilt(checkpoint)
    expected = checkpoints.trace(oracle, TOKENS).logits
    difference = np.abs(checkpoints.trace(model, TOKENS).logits - expected).max() / np.abs(expected).max()
    assert difference < 1e-5


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *UNTIED])
def test_the_same_architecture_is_read_from_the_document(architecture: str, tmp_path: Path) -> None:
    save(random_model(architecture), tmp_path)
    with opened_folder(tmp_path) as checkpoint:
        tied = "head" not in checkpoint.tensors
        document = huggingface_document(checkpoint.config, tied=tied, dtype="float32")
    assert read(document, checkpoint.config.vocabulary) == checkpoint.config
    assert tied_embeddings(document) is tied


def read(document: dict[str, Any], vocabulary: int) -> GemmaConfig:
    return huggingface_config(document, vocabulary, np.float32)


@pytest.mark.parametrize("change", ["no caps", "no windows", "uneven layers"])
def test_what_no_published_checkpoint_has_is_read_back(change: str, tmp_path: Path) -> None:
    save(random_model("gemma2"), tmp_path)
    with opened_folder(tmp_path) as checkpoint:
        config = checkpoint.config
    everywhere = LayerConfig(Rope(10_000.0), None)
    changed = {
        "no caps": replace(config, attention_softcap=None, logit_softcap=None),
        "no windows": replace(config, layers=(everywhere,) * 4),
        "uneven layers": replace(config, layers=(*config.layers[:1], everywhere, everywhere, everywhere)),
    }[change]
    assert read(huggingface_document(changed, tied=True, dtype="float32"), config.vocabulary) == changed


def dequantised(kind: GGMLQuantizationType, stored: NDArray[Any]) -> NDArray[np.float32]:
    return gguf.dequantize(stored, kind).astype(np.float32)


@contextmanager
def opened_gguf(path: Path) -> Iterator[Checkpoint]:
    with Pieces([path]) as pieces:
        yield GgufCheckpoint(pieces)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_K", "Q5_1"])
def test_quantised_tensors_become_the_numbers_that_they_stand_for(kind: str, tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", type_of=lambda _name: GGMLQuantizationType[kind])
    with opened_gguf(tmp_path / "tiny.gguf") as checkpoint:
        tensors = dict(huggingface_tensors(checkpoint))
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], dequantised(*written["token_embd.weight"]))
    np.testing.assert_array_equal(
        tensors["model.layers.1.mlp.down_proj.weight"], dequantised(*written["blk.1.ffn_down.weight"])
    )


def test_norms_lose_the_1_that_the_engine_adds(tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "tiny.gguf")
    with opened_gguf(tmp_path / "tiny.gguf") as checkpoint:
        tensors = dict(huggingface_tensors(checkpoint))
    assert tensors["model.norm.weight"].tolist() == (written["output_norm.weight"][1] - 1).tolist()
    assert tensors["model.layers.0.self_attn.q_norm.weight"].shape == (64,)


def test_the_starter_weights_are_spelled_as_transformers_expects_them() -> None:
    with Pieces(starter_pieces()) as pieces:
        checkpoint = GgufCheckpoint(pieces)
        document = huggingface_document(checkpoint.config, tied=True, dtype="bfloat16")
        assert huggingface_config(document, checkpoint.config.vocabulary, np.float32) == checkpoint.config
        config = AutoConfig.for_model(**document)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
        found = {spelled(name, 3): tensor.shape for name, tensor in checkpoint.tensors.items()}
    assert found == wanted
