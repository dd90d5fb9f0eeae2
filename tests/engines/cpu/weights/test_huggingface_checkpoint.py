"""Hugging Face folders of every generation, layout and float type, from the folder to the packed matrices."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.checkpoints import random_model, save
from transformers import PreTrainedModel

from gemlora.engines.cpu.weights.huggingface_checkpoint import files_of, opened_folder
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.packing import pack
from gemlora.engines.cpu.weights.progress import silent
from gemlora.engines.cpu.weights.quantization import spread_rows
from gemlora.errors import WeightsInvalid
from gemlora.kernels import Format, Matrix

GENERATIONS = {"gemma1": 1, "gemma2": 2, "gemma3": 3}
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, PreTrainedModel]]:
    """A float32 folder and its model for each generation."""
    made = {}
    for architecture in GENERATIONS:
        folder = tmp_path_factory.mktemp(architecture)
        model = random_model(architecture)
        save(model, folder)
        made[architecture] = (folder, model)
    return made


@pytest.fixture
def gemma3(folders: dict[str, tuple[Path, PreTrainedModel]], tmp_path: Path) -> Path:
    """A folder that a test may change."""
    return Path(shutil.copytree(folders["gemma3"][0], tmp_path / "gemma3"))


def packed(checkpoint: Path, folder: Path, quantize: str = "none") -> PackedModel:
    folder.mkdir()
    with opened_folder(checkpoint) as opened:
        pack(opened, folder, name="tiny", digest="0" * 64, quantize=quantize, progress=silent)
    return PackedModel.open(folder)


def refuse(checkpoint: Path, message: str) -> None:
    with pytest.raises(WeightsInvalid, match=message), opened_folder(checkpoint):
        pass


Tensors = dict[str, Any]


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Change the tensors of a folder."""
    save_file(change(dict(load_file(folder / WEIGHTS))), folder / WEIGHTS)


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {other: tensor for other, tensor in tensors.items() if other != name}


def rewrite_config(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**document, **changes}))


def numpy_of(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().float().numpy()


@pytest.mark.parametrize("architecture", GENERATIONS)
def test_every_weight_arrives_where_the_model_has_it(
    architecture: str, folders: dict[str, tuple[Path, PreTrainedModel]], tmp_path: Path
) -> None:
    checkpoint, model = folders[architecture]
    weights = packed(checkpoint, tmp_path / "packed")
    assert weights.config.generation == GENERATIONS[architecture]
    assert weights.tied
    np.testing.assert_array_equal(weights.matrix("embedding").dequantised(), numpy_of(model.model.embed_tokens.weight))
    np.testing.assert_array_equal(weights.vector("final_norm"), 1 + numpy_of(model.model.norm.weight))
    for index, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        matrices = {
            "q_proj": attention.q_proj, "k_proj": attention.k_proj, "v_proj": attention.v_proj,
            "o_proj": attention.o_proj, "gate_proj": mlp.gate_proj, "up_proj": mlp.up_proj,
            "down_proj": mlp.down_proj,
        }  # fmt: skip
        norms = {"input_norm": layer.input_layernorm, "feed_forward_norm": layer.post_attention_layernorm}
        if architecture != "gemma1":
            norms |= {
                "feed_forward_norm": layer.pre_feedforward_layernorm,
                "post_attention_norm": layer.post_attention_layernorm,
                "post_feed_forward_norm": layer.post_feedforward_layernorm,
            }
        if architecture == "gemma3":
            norms |= {"query_norm": attention.q_norm, "key_norm": attention.k_norm}
        for name, module in matrices.items():
            stored = weights.matrix(f"layers.{index}.{name}")
            np.testing.assert_array_equal(stored.dequantised(), numpy_of(module.weight), name)
        for name, module in norms.items():
            np.testing.assert_array_equal(weights.vector(f"layers.{index}.{name}"), 1 + numpy_of(module.weight), name)


@pytest.mark.parametrize(
    ("dtype", "format_"),
    [(torch.bfloat16, Format.BFLOAT16), (torch.float16, Format.FLOAT16), (torch.float32, Format.FLOAT32)],
)
def test_floats_keep_their_type_and_set_the_embedding_scale(
    dtype: torch.dtype, format_: Format, tmp_path: Path
) -> None:
    model = random_model("gemma1_mqa")
    save(model, tmp_path / "folder", dtype)
    weights = packed(tmp_path / "folder", tmp_path / "packed")
    stored = weights.matrix("layers.0.q_proj")
    assert stored.format is format_
    np.testing.assert_array_equal(
        stored.dequantised(), numpy_of(model.model.layers[0].self_attn.q_proj.weight.to(dtype))
    )
    assert weights.config.embedding_scale == torch.tensor(80**0.5).to(dtype).item()


def test_the_one_of_a_norm_is_added_in_float32(tmp_path: Path) -> None:
    model = random_model("gemma1")
    save(model, tmp_path / "folder", torch.bfloat16)
    weights = packed(tmp_path / "folder", tmp_path / "packed")
    norm = model.model.norm.weight.detach().to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(weights.vector("final_norm"), np.float32(1) + norm)
    assert (weights.vector("final_norm") != (1 + norm).astype(ml_dtypes.bfloat16)).any()


def test_int8_spreads_rows_whose_length_is_no_multiple_of_128(
    folders: dict[str, tuple[Path, PreTrainedModel]], tmp_path: Path
) -> None:
    checkpoint, model = folders["gemma2"]
    weights = packed(checkpoint, tmp_path / "packed", "int8")
    original = numpy_of(model.model.layers[3].mlp.down_proj.weight)
    stored = weights.matrix("layers.3.down_proj")
    rows = spread_rows(original)
    expected = Matrix.from_spread(rows.q, rows.scales, original.shape[1])
    assert (stored.is_spread, stored.quantize_activations) == (True, True)
    np.testing.assert_array_equal(stored.dequantised(), expected.dequantised())
    assert np.square(stored.dequantised() - original).mean() < 1e-4 * np.square(original).mean()


def test_shards_are_one_checkpoint(folders: dict[str, tuple[Path, PreTrainedModel]], tmp_path: Path) -> None:
    checkpoint, model = folders["gemma3"]
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    shutil.copy(checkpoint / "tokenizer.model", tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    one, several = packed(checkpoint, tmp_path / "one"), packed(tmp_path / "shards", tmp_path / "several")
    np.testing.assert_array_equal(one.matrix("layers.6.down_proj").values, several.matrix("layers.6.down_proj").values)
    assert one.config == several.config
    next((tmp_path / "shards").glob("*.safetensors")).unlink()
    refuse(tmp_path / "shards", "cannot be read")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", ""])
def test_the_text_model_of_an_image_model_is_taken(prefix: str, gemma3: Path, tmp_path: Path) -> None:
    reference = packed(gemma3, tmp_path / "text")
    rewrite(
        gemma3,
        lambda tensors: (
            {name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items()}
            | {"vision_tower.vision_model.embeddings.position_ids": np.arange(3)}
            | {"model.multi_modal_projector.mm_input_projection_weight": np.ones(3, np.float32)}
        ),
    )
    text = json.loads((gemma3 / CONFIG).read_text())
    (gemma3 / CONFIG).write_text(json.dumps({"model_type": "gemma3", "text_config": text, "vision_config": {}}))
    model = packed(gemma3, tmp_path / "image")
    assert model.config == reference.config
    np.testing.assert_array_equal(model.matrix("embedding").values, reference.matrix("embedding").values)


def test_a_head_of_its_own_is_kept(gemma3: Path, tmp_path: Path) -> None:
    rewrite(gemma3, lambda tensors: tensors | {"lm_head.weight": 2 * tensors["model.embed_tokens.weight"]})
    rewrite_config(gemma3, tie_word_embeddings=False)
    model = packed(gemma3, tmp_path / "untied")
    np.testing.assert_array_equal(model.matrix("head").dequantised(), 2 * model.matrix("embedding").dequantised())


def test_a_head_that_repeats_the_embedding_is_dropped(gemma3: Path, tmp_path: Path) -> None:
    rewrite(gemma3, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()})
    assert packed(gemma3, tmp_path / "repeated").tied


def test_a_head_that_differs_although_tied_is_used_as_transformers_does(gemma3: Path, tmp_path: Path) -> None:
    rewrite(gemma3, lambda tensors: tensors | {"lm_head.weight": 2 * tensors["model.embed_tokens.weight"]})
    assert not packed(gemma3, tmp_path / "different").tied


def test_derived_tables_of_old_checkpoints_are_passed_over(gemma3: Path) -> None:
    rewrite(gemma3, lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8)})
    with opened_folder(gemma3) as checkpoint:
        assert len(checkpoint.config.layers) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("model.layers.4.mlp.up_proj.weight"), "model.layers.4.mlp.up_proj.weight is missing"),
        (without("model.embed_tokens.weight"), "model.embed_tokens.weight is missing"),
        (lambda t: t | {"model.layers.0.self_attn.q_proj.bias": np.ones(128, np.float32)}, "q_proj.bias is not part"),
        (lambda t: t | {"model.layers.7.mlp.up_proj.weight": np.ones((96, 64), np.float32)}, "layers.7.*is not part"),
        (
            lambda t: t | {"model.layers.1.mlp.up_proj.weight": np.ones((64, 96), np.float32)},
            r"layers.1.mlp.up_proj.weight has shape \[64, 96\], the configuration wants \[96, 64\]",
        ),
        (
            lambda t: t | {"model.layers.1.mlp.up_proj.weight": np.ones((96, 64), np.int8)},
            "layers.1.mlp.up_proj.weight has type I8",
        ),
        (lambda t: t | {"vision_tower.weight": np.ones(3, np.float32)}, "vision_tower.weight is not part"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_by_name(
    change: Callable[[Tensors], Tensors], message: str, gemma3: Path
) -> None:
    rewrite(gemma3, change)
    refuse(gemma3, message)


def test_a_tensor_in_two_files_is_refused(gemma3: Path) -> None:
    for number in (1, 2):
        shutil.copy(gemma3 / WEIGHTS, gemma3 / f"model-0000{number}-of-00002.safetensors")
    (gemma3 / WEIGHTS).unlink()
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (gemma3 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    refuse(gemma3, r"model-00002-of-00002\.safetensors: tensor .* is also in another file")


def test_a_missing_head_is_refused(gemma3: Path) -> None:
    rewrite_config(gemma3, tie_word_embeddings=False)
    refuse(gemma3, "lm_head.weight is missing")


def test_a_quantised_folder_is_refused(gemma3: Path) -> None:
    rewrite_config(gemma3, quantization_config={"quant_method": "bitsandbytes"})
    refuse(gemma3, "quantization_config is not supported")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (CONFIG, b"{", "config.json: is damaged"),
        (CONFIG, b"[]", "config.json: is not a JSON object"),
        (CONFIG, None, "config.json: cannot be read"),
        (WEIGHTS, None, "has neither model.safetensors nor model.safetensors.index.json"),
        (WEIGHTS, b"", "truncated"),
        (WEIGHTS, b"\xff" * 64, "not a safetensors file"),
        (WEIGHTS, (20).to_bytes(8, "little") + b"x" * 20, "header is damaged"),
    ],
)
def test_damaged_files_are_refused(file: str, content: bytes | None, message: str, gemma3: Path) -> None:
    (gemma3 / file).unlink()
    if content is not None:
        (gemma3 / file).write_bytes(content)
    refuse(gemma3, message)


def test_a_cut_weights_file_is_refused(gemma3: Path) -> None:
    content = (gemma3 / WEIGHTS).read_bytes()
    (gemma3 / WEIGHTS).write_bytes(content[:-1])
    refuse(gemma3, "the file is truncated: tensor")


def test_an_index_must_stay_in_its_folder(gemma3: Path) -> None:
    (gemma3 / WEIGHTS).rename(gemma3 / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (gemma3 / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(gemma3, "weight_map does not map tensors to files of this folder")


def test_numbers_that_are_not_finite_are_refused_by_name(gemma3: Path, tmp_path: Path) -> None:
    def spoil(tensors: Tensors) -> Tensors:
        tensors["model.layers.2.mlp.down_proj.weight"][3, 4] = np.nan
        return tensors

    rewrite(gemma3, spoil)
    with pytest.raises(WeightsInvalid, match=r"model\.layers\.2\.mlp\.down_proj\.weight holds numbers"):
        packed(gemma3, tmp_path / "packed", "int8")


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_numbers_that_are_too_large_to_be_quantised_are_refused(quantize: str, gemma3: Path, tmp_path: Path) -> None:
    def spoil(tensors: Tensors) -> Tensors:
        tensors["model.embed_tokens.weight"][3, 4] = 3e38
        return tensors

    rewrite(gemma3, spoil)
    with pytest.raises(WeightsInvalid, match="embedding holds numbers that are not finite or too large"):
        packed(gemma3, tmp_path / "packed", quantize)


def test_a_folder_without_a_tokenizer_is_refused(gemma3: Path, tmp_path: Path) -> None:
    (gemma3 / "tokenizer.model").unlink()
    with pytest.raises(WeightsInvalid, match=r"neither tokenizer.model nor tokenizer.json"):
        packed(gemma3, tmp_path / "packed")


def test_a_conversion_depends_on_these_files(gemma3: Path) -> None:
    (gemma3 / "tokenizer.json").write_text("{}")
    (gemma3 / "README.md").write_text("")
    assert [path.name for path in files_of(gemma3)] == [CONFIG, WEIGHTS, "tokenizer.model"]
