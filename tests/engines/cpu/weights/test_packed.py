"""Opening a packed model: fast, read-only, and never a table that does not fit the file."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGMLQuantizationType
from tests.gguf_files import write_gguf

from gemlora.engines.cpu.weights.folder import DESCRIPTION_FILE, WEIGHTS_FILE
from gemlora.engines.cpu.weights.packed import PackedModel, facts
from gemlora.engines.cpu.weights.prepare import prepare
from gemlora.engines.cpu.weights.progress import silent
from gemlora.errors import WeightsInvalid
from gemlora.kernels import Format

Table = dict[str, Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    write_gguf(
        folder / "tiny.gguf",
        type_of=lambda name: GGMLQuantizationType.Q8_0 if "embd" in name else GGMLQuantizationType.Q4_K,
    )
    return prepare(str(folder / "tiny.gguf"), None, None, "int8", folder / "cache", silent)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def change(folder: Path, edit: Callable[[Table], None]) -> None:
    table = json.loads((folder / DESCRIPTION_FILE).read_text())
    edit(table)
    (folder / DESCRIPTION_FILE).write_text(json.dumps(table))


def test_it_says_what_it_is(original: Path) -> None:
    model = PackedModel.open(original)
    assert (model.name, model.family, model.quantize, model.tied) == ("Tiny", "gemma3", "int8", True)
    assert model.tokenizer_path == original / "tokenizer.model"
    assert model.size == (original / WEIGHTS_FILE).stat().st_size
    told = facts(model, 512)
    assert (told.name, told.context_window, told.layers, told.vocabulary) == ("Tiny", 512, 2, 300)
    assert told.modules["down_proj"] == (256, 512)


def test_arrays_are_aligned_and_read_only(original: Path) -> None:
    model = PackedModel.open(original)
    matrix = model.matrix("layers.1.o_proj")
    assert matrix.scales is not None
    assert matrix.minimums is not None
    assert matrix.values.ctypes.data % 4096 == 0
    for array in (matrix.scales, matrix.minimums, model.vector("layers.1.input_norm")):
        assert array.ctypes.data % 64 == 0
        assert not array.flags.writeable
    assert not matrix.values.flags.writeable


def test_opening_is_fast(original: Path) -> None:
    PackedModel.open(original)
    start = time.perf_counter()
    PackedModel.open(original)
    assert time.perf_counter() - start < 0.05


def test_an_open_model_survives_the_deletion_of_its_folder(folder: Path) -> None:
    model = PackedModel.open(folder)
    expected = model.matrix("embedding").dequantised()
    shutil.rmtree(folder)
    assert (model.matrix("embedding").dequantised() == expected).all()


def test_an_unknown_name_is_a_key_error(original: Path) -> None:
    with pytest.raises(KeyError):
        PackedModel.open(original).matrix("head")


def shifted(table: Table) -> None:
    table["matrices"]["layers.0.k_proj"]["values"]["offset"] = table["weights_size"]


def unaligned(table: Table) -> None:
    table["vectors"]["final_norm"]["offset"] += 4


def negative(table: Table) -> None:
    table["vectors"]["final_norm"]["offset"] = -64


def too_small(table: Table) -> None:
    table["matrices"]["layers.0.k_proj"]["scales"]["shape"][0] = 1


def other_group(table: Table) -> None:
    table["matrices"]["layers.0.k_proj"]["group"] = 64


def group_too_small_for_int4(table: Table) -> None:
    entry = table["matrices"]["layers.0.k_proj"]
    entry["group"] = 16
    for array in ("scales", "minimums"):
        entry[array]["shape"][1] *= 2


def not_spread(table: Table) -> None:
    entry = table["matrices"]["embedding"]
    entry["group"] = 32
    entry["scales"]["shape"][1] *= 4


def spread_in_four_bits(table: Table) -> None:
    entry = table["matrices"]["embedding"]
    entry["format"] = int(Format.INT4)
    entry["values"]["shape"][1] //= 2


def spread_with_minimums(table: Table) -> None:
    entry = table["matrices"]["embedding"]
    entry["minimums"] = entry["scales"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (not_spread, "embedding does not fit quantize int8"),
        (lambda table: table.update(quantize="none"), "embedding does not fit quantize none"),
        (spread_in_four_bits, "embedding does not fit quantize int8"),
        (spread_with_minimums, "the arrays of embedding have wrong shapes"),
        (lambda table: table["matrices"]["embedding"].pop("scales"), "the arrays of embedding have wrong shapes"),
        (lambda table: table["matrices"]["layers.0.k_proj"].update(format=9), "format"),
        (group_too_small_for_int4, "the arrays of layers.0.k_proj have wrong shapes"),
        (lambda table: table["matrices"]["layers.0.k_proj"].update(format=3), "layers.0.k_proj have wrong shapes"),
        (shifted, "layers.0.k_proj lies outside weights.bin"),
        (unaligned, "final_norm lies outside"),
        (negative, "final_norm lies outside"),
        (too_small, "the arrays of layers.0.k_proj have wrong shapes"),
        (other_group, "the arrays of layers.0.k_proj have wrong shapes"),
        (lambda table: table["matrices"].pop("layers.0.k_proj"), "not those of the architecture"),
        (lambda table: table["vectors"].pop("layers.1.key_norm"), "not those of the architecture"),
        (lambda table: table["config"].update(feed_forward=513), "not those of the architecture"),
        (lambda table: table.update(layout=0), "packed layout 0 is not"),
        (lambda table: table.update(tokenizer="none.model"), "none.model is missing"),
        (lambda table: table.update(quantize="int2"), "quantize"),
        (lambda table: table["config"].pop("heads"), "heads"),
        (lambda table: table["tokens"].update(bos="2"), "bos"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(edit: Callable[[Table], None], message: str, folder: Path) -> None:
    change(folder, edit)
    with pytest.raises(WeightsInvalid, match=message):
        PackedModel.open(folder)


def test_a_cut_weights_file_is_refused(folder: Path) -> None:
    os.truncate(folder / WEIGHTS_FILE, 4096)
    with pytest.raises(WeightsInvalid, match=r"weights\.bin: has 4096 bytes, not"):
        PackedModel.open(folder)


@pytest.mark.parametrize("file", [DESCRIPTION_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_refused(file: str, folder: Path) -> None:
    (folder / file).unlink()
    with pytest.raises(WeightsInvalid, match=f"{file}: No such file"):
        PackedModel.open(folder)
