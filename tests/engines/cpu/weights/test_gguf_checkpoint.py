"""GGUF files of every generation and tensor type, from the file to the packed matrices."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray
from tests.gguf_files import HIDDEN, tensor_shapes, write_gguf

from gemlora.engines.cpu.weights.folder import WEIGHTS_FILE, Quantize
from gemlora.engines.cpu.weights.gguf_checkpoint import GgufCheckpoint
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.packing import pack
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.progress import silent
from gemlora.engines.cpu.weights.tensor_names import gguf_name
from gemlora.errors import WeightsInvalid
from gemlora.kernels import Format, Matrix

F32, Q8_0 = GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0
SUPPORTED = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
FLOATS = {"F32": Format.FLOAT32, "F16": Format.FLOAT16, "BF16": Format.BFLOAT16}
FOUR_BITS = ["Q4_0", "Q4_1", "Q4_K"]
FORMATS = FLOATS | dict.fromkeys(FOUR_BITS, Format.INT4)
"""The others become int8."""


def packed(path: Path, folder: Path, quantize: Quantize = "none") -> PackedModel:
    folder.mkdir()
    with Pieces([path]) as pieces:
        pack(GgufCheckpoint(pieces), folder, name="tiny", digest="0" * 64, quantize=quantize, progress=silent)
    return PackedModel.open(folder)


def opened(path: Path) -> GgufCheckpoint:
    with Pieces([path]) as pieces:
        return GgufCheckpoint(pieces)


def dequantized(written: tuple[GGMLQuantizationType, NDArray[Any]]) -> NDArray[np.float32]:
    return gguf.dequantize(written[1], written[0]).astype(np.float32)


def assert_spread(stored: Matrix, written: tuple[GGMLQuantizationType, NDArray[Any]]) -> None:
    """8 bits, spread, and what was written but for a few percent: random blocks with minimums are far from zero."""
    assert stored.is_spread
    assert stored.quantize_activations
    weights = dequantized(written)
    assert np.square(stored.dequantised() - weights).mean() < 0.03**2 * np.square(weights).mean()


@pytest.mark.parametrize("name", SUPPORTED)
def test_with_none_every_tensor_type_keeps_every_bit(name: str, tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", type_of=lambda _tensor: GGMLQuantizationType[name])
    model = packed(tmp_path / "tiny.gguf", tmp_path / "packed")
    for matrix in ["embedding", *(f"layers.{i}.{module}" for i in range(2) for module in model.config.modules)]:
        stored = model.matrix(matrix)
        assert stored.format is FORMATS.get(name, Format.INT8)
        assert not stored.quantize_activations
        np.testing.assert_array_equal(stored.dequantised(), dequantized(written[gguf_name(matrix)]), matrix)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("name", FOUR_BITS)
def test_a_file_of_four_bits_keeps_every_bit_beside_quantised_activations(
    name: str, quantize: Quantize, tmp_path: Path
) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", type_of=lambda _tensor: GGMLQuantizationType[name])
    stored = packed(tmp_path / "tiny.gguf", tmp_path / "packed", quantize).matrix("layers.1.down_proj")
    assert (stored.format, stored.quantize_activations) == (Format.INT4, True)
    np.testing.assert_array_equal(stored.dequantised(), dequantized(written["blk.1.ffn_down.weight"]))


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("name", [name for name in SUPPORTED if name not in FORMATS])
def test_other_quantised_tensors_are_spread_for_quantised_activations(
    name: str, quantize: Quantize, tmp_path: Path
) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", type_of=lambda _tensor: GGMLQuantizationType[name])
    model = packed(tmp_path / "tiny.gguf", tmp_path / "packed", quantize)
    for matrix in ("embedding", "layers.0.q_proj", "layers.1.down_proj"):
        assert_spread(model.matrix(matrix), written[gguf_name(matrix)])


def test_a_spread_matrix_knows_the_steps_of_its_checkpoint(tmp_path: Path) -> None:
    kinds = {"embedding": "Q8_0", "layers.0.q_proj": "Q6_K", "layers.1.down_proj": "F16"}
    types = {gguf_name(matrix): GGMLQuantizationType[kind] for matrix, kind in kinds.items()}
    write_gguf(tmp_path / "tiny.gguf", type_of=lambda tensor: types.get(tensor, Q8_0))
    spread, kept = (packed(tmp_path / "tiny.gguf", tmp_path / name, name) for name in ("int8", "none"))
    for matrix in kinds:
        scales, group = kept.matrix(matrix).scales, kept.matrix(matrix).group
        expected = 0.0 if scales is None else group * np.square(scales, dtype=np.float64).sum()
        assert spread.squared_checkpoint_steps(matrix) == pytest.approx(expected)
        assert kept.squared_checkpoint_steps(matrix) == 0


MIXED = {"most": ("ffn_gate", "ffn_up", "ffn_down"), "less than half": ("ffn_gate", "ffn_up")}
"""Tensors in 4 bits, by their share of the layers' weights."""


@pytest.mark.parametrize(
    ("share", "quantize", "kept"),
    [
        ("most", "int8", True),
        ("less than half", "int8", False),
        ("most", "int4", True),
        ("less than half", "int4", True),
    ],
)
def test_four_bits_are_kept_with_int4_and_where_the_layers_are_mostly_of_them(
    share: str, quantize: Quantize, kept: bool, tmp_path: Path
) -> None:
    q4_k, q6_k = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K
    written = write_gguf(
        tmp_path / "tiny.gguf",
        type_of=lambda tensor: q4_k if any(name in tensor for name in MIXED[share]) else q6_k,
    )
    model = packed(tmp_path / "tiny.gguf", tmp_path / "packed", quantize)
    up = model.matrix("layers.1.up_proj")
    if kept:
        assert (up.format, up.quantize_activations) == (Format.INT4, True)
        np.testing.assert_array_equal(up.dequantised(), dequantized(written["blk.1.ffn_up.weight"]))
    else:
        assert_spread(up, written["blk.1.ffn_up.weight"])
    for matrix in ("embedding", "layers.0.k_proj"):
        assert_spread(model.matrix(matrix), written[gguf_name(matrix)])


@pytest.mark.parametrize("type_", [F32, Q8_0])
def test_how_many_rows_are_converted_at_once_changes_nothing(
    type_: GGMLQuantizationType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf", type_of=lambda _tensor: type_)
    packed(tmp_path / "tiny.gguf", tmp_path / "whole", "int8")
    monkeypatch.setattr("gemlora.engines.cpu.weights.packing.CHUNK_WEIGHTS", 1)
    packed(tmp_path / "tiny.gguf", tmp_path / "chunks", "int8")
    assert (tmp_path / "whole" / WEIGHTS_FILE).read_bytes() == (tmp_path / "chunks" / WEIGHTS_FILE).read_bytes()


@pytest.mark.parametrize("name", FLOATS)
def test_int8_spreads_floats(name: str, tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", type_of=lambda _tensor: GGMLQuantizationType[name])
    model = packed(tmp_path / "tiny.gguf", tmp_path / "packed", "int8")
    for matrix in ("embedding", "layers.1.up_proj"):
        assert_spread(model.matrix(matrix), written[gguf_name(matrix)])


@pytest.mark.parametrize("name", FLOATS)
def test_int4_quantises_the_floats_of_layers_to_four_bits_and_the_embedding_to_eight(name: str, tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", type_of=lambda _tensor: GGMLQuantizationType[name])
    model = packed(tmp_path / "tiny.gguf", tmp_path / "packed", "int4")
    stored = model.matrix("layers.1.up_proj")
    weights = dequantized(written["blk.1.ffn_up.weight"])
    assert (stored.format, stored.is_spread, stored.quantize_activations) == (Format.INT4, True, True)
    assert np.square(stored.dequantised() - weights).mean() < 0.0085 * np.square(weights).mean()
    assert_spread(model.matrix("embedding"), written["token_embd.weight"])


@pytest.mark.parametrize("architecture", ["gemma", "gemma2", "gemma3"])
def test_norms_are_taken_as_they_are(architecture: str, tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", architecture, lambda _tensor: Q8_0)
    model = packed(tmp_path / "tiny.gguf", tmp_path / "packed", "int8")
    norms = {
        "final_norm": "output_norm", "layers.1.input_norm": "blk.1.attn_norm",
        "layers.1.feed_forward_norm": "blk.1.ffn_norm",
    }  # fmt: skip
    if architecture != "gemma":
        norms["layers.0.post_attention_norm"] = "blk.0.post_attention_norm"
        norms["layers.0.post_feed_forward_norm"] = "blk.0.post_ffw_norm"
    if architecture == "gemma3":
        norms |= {"layers.1.query_norm": "blk.1.attn_q_norm", "layers.1.key_norm": "blk.1.attn_k_norm"}
    for name, tensor in norms.items():
        np.testing.assert_array_equal(model.vector(name), written[f"{tensor}.weight"][1], name)
    assert model.family == architecture
    assert model.config.generation == {"gemma": 1, "gemma2": 2, "gemma3": 3}[architecture]


def test_the_names_are_those_of_the_gguf_library() -> None:
    for architecture in (gguf.MODEL_ARCH.GEMMA, gguf.MODEL_ARCH.GEMMA2, gguf.MODEL_ARCH.GEMMA3):
        wanted = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[architecture]}
        ours = tensor_shapes(gguf.MODEL_ARCH_NAMES[architecture], layers=1)
        assert {name.removesuffix(".weight").replace("blk.0.", "blk.{bid}.") for name in ours} == wanted - {"output"}


def test_a_separate_head_is_kept(tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", shapes={"output.weight": (300, HIDDEN)})
    model = packed(tmp_path / "tiny.gguf", tmp_path / "packed")
    assert not model.tied
    np.testing.assert_array_equal(model.matrix("head").dequantised(), written["output.weight"][1])
    write_gguf(tmp_path / "tied.gguf")
    assert packed(tmp_path / "tied.gguf", tmp_path / "tied").tied


def test_stop_tokens_come_from_the_vocabulary(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    tokens = packed(tmp_path / "tiny.gguf", tmp_path / "packed").tokens
    assert (tokens.bos, tokens.stop) == (2, (1, 5))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"blk.1.attn_q.weight": ()}, "tensor blk.1.attn_q.weight is missing"),
        ({"token_embd.weight": ()}, "tensor token_embd.weight is missing"),
        ({"output_norm.weight": ()}, "tensor output_norm.weight is missing"),
        ({"blk.0.attn_q.bias": (256,)}, "tensor blk.0.attn_q.bias is not part of this architecture"),
        ({"blk.2.attn_q.weight": (256, 256)}, "tensor blk.2.attn_q.weight is not part"),
        ({"blk.0.ffn_up.weight": (512, 128)}, r"ffn_up.weight has shape \[512, 128\], .* wants \[512, 256\]"),
        ({"blk.0.attn_q_norm.weight": (32,)}, r"attn_q_norm.weight has shape \[32\], .* wants \[64\]"),
        ({"blk.0.attn_k.weight": (64, 256)}, r"attn_k.weight has shape \[64, 256\], .* wants \[128, 256\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    shapes: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "tiny.gguf", shapes=shapes)
    with pytest.raises(WeightsInvalid, match=message):
        opened(tmp_path / "tiny.gguf")


def test_head_norms_do_not_belong_to_gemma_2(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", "gemma2", shapes={"blk.0.attn_q_norm.weight": (64,)})
    with pytest.raises(WeightsInvalid, match=r"blk.0.attn_q_norm.weight is not part"):
        opened(tmp_path / "tiny.gguf")


@pytest.mark.parametrize("name", ["Q8_K", "IQ4_NL", "TQ2_0", "MXFP4"])
def test_other_tensor_types_are_refused_by_name(name: str, tmp_path: Path) -> None:
    write_gguf(
        tmp_path / "tiny.gguf",
        type_of=lambda tensor: GGMLQuantizationType[name] if tensor == "blk.0.ffn_up.weight" else F32,
    )
    with pytest.raises(WeightsInvalid, match=rf"blk\.0\.ffn_up\.weight has type {name}, which is not supported"):
        opened(tmp_path / "tiny.gguf")


def test_another_architecture_is_refused_with_the_files_name(tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf", "gemma3n", lambda _tensor: F32)
    with pytest.raises(WeightsInvalid, match=r"other\.gguf: general\.architecture is 'gemma3n'"):
        opened(tmp_path / "other.gguf")


def test_a_split_file_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "split.gguf", "gemma3")
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(WeightsInvalid, match="split into several"):
        opened(tmp_path / "split.gguf")


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_numbers_that_are_not_finite_are_refused_by_name(quantize: Quantize, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, type_of=lambda _tensor: Q8_0)
    with Pieces([path]) as pieces:
        offset = GgufCheckpoint(pieces).tensors["layers.1.o_proj"].entry.offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 2] = np.float16(np.inf).tobytes()
    path.write_bytes(content)
    with pytest.raises(WeightsInvalid, match=r"blk\.1\.attn_output\.weight holds numbers that are not finite"):
        packed(path, tmp_path / "packed", quantize)
