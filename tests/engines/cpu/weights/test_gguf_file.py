"""The header's reader against the `gguf` library's, and on damaged files."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from tests.gguf_files import write_gguf

from gemlora.engines.cpu.weights.gguf_file import GgufHeader
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.errors import WeightsInvalid


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


def header_of(*paths: Path) -> GgufHeader:
    with Pieces(paths) as pieces:
        return GgufHeader.read(pieces)


def test_metadata_and_tensors_are_the_librarys(file: Path) -> None:
    header, reader = header_of(file), GGUFReader(file)
    assert list(header.metadata) == [key for key in reader.fields if not key.startswith("GGUF.")]
    for key, value in header.metadata.items():
        expected = reader.fields[key].contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected, key
    assert {t.name: (t.tensor_type, t.data_offset, t.n_bytes) for t in reader.tensors} == {
        t.name: (t.type, t.offset, t.size) for t in header.tensors.values()
    }
    assert header.tensors["blk.0.ffn_down.weight"].shape == (256, 512)


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "kinds.gguf", "gemma3")
    for name, value in {"uint8": 7, "int8": -7, "uint16": 7, "int16": -7, "int32": -7, "uint64": 1 << 40}.items():
        getattr(writer, f"add_{name}")(name, value)
    writer.add_float64("float64", 0.1)
    writer.add_bool("bool", True)
    writer.add_array("words", ["a", "ü", ""])
    writer.add_array("numbers", [1.5, 2.5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = header_of(tmp_path / "kinds.gguf").metadata
    assert metadata.pop("numbers").tolist() == [1.5, 2.5]
    assert metadata == {
        "general.architecture": "gemma3", "uint8": 7, "int8": -7, "uint16": 7, "int16": -7, "int32": -7,
        "uint64": 1 << 40, "float64": 0.1, "bool": True, "words": ["a", "ü", ""],
    }  # fmt: skip


def test_pieces_of_a_file_read_like_the_file(file: Path, tmp_path: Path) -> None:
    content, pieces = file.read_bytes(), []
    for number, start in enumerate(range(0, len(content), 10_007)):
        pieces.append(tmp_path / f"part{number}")
        pieces[-1].write_bytes(content[start : start + 10_007])
    assert header_of(*pieces).tensors == header_of(file).tensors
    with Pieces(pieces) as joined:
        assert joined.read(5_000, 30_000) == content[5_000:35_000]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"GGML" + content[4:], "not a GGUF file"),
        (lambda content: b"", "not a GGUF file"),
        (lambda content: content[:4] + struct.pack("<I", 1) + content[8:], "version 1"),
        (lambda content: content[:4] + struct.pack(">I", 3) + content[8:], "version 50331648"),
        (lambda content: content[:1000], "truncated"),
        (lambda content: content[:-1], "truncated: tensor"),
        (lambda content: content[:8] + struct.pack("<Q", 1 << 62) + content[16:], "truncated|dimensions|UTF-8"),
        (lambda content: content.replace(b"blk.1.attn_q.weight", b"blk.0.attn_q.weight"), "occurs twice"),
        (lambda content: content.replace(b"blk.1.attn_q.weight", b"blk.1.attn_q.\xff\xffight"), "UTF-8"),
    ],
    ids=["magic", "empty", "version", "big-endian", "header cut", "data cut", "tensor count", "doubled", "not UTF-8"],
)
def test_a_damaged_file_is_refused(file: Path, tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(damage(file.read_bytes()))
    with pytest.raises(WeightsInvalid, match=message):
        header_of(damaged)


def test_a_cut_anywhere_in_the_header_is_refused(file: Path, tmp_path: Path) -> None:
    content, damaged = file.read_bytes(), tmp_path / "cut.gguf"
    for size in range(4, 4000, 97):
        damaged.write_bytes(content[:size])
        with pytest.raises(WeightsInvalid):
            header_of(damaged)


def test_an_unknown_tensor_type_is_refused_by_name(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    name = b"blk.1.attn_q.weight"
    type_at = content.index(name) + len(name) + 4 + 2 * 8
    content[type_at : type_at + 4] = struct.pack("<I", 250)
    (damaged := tmp_path / "type.gguf").write_bytes(content)
    with pytest.raises(WeightsInvalid, match=r"blk\.1\.attn_q\.weight has the unknown type 250"):
        header_of(damaged)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match=r"none.gguf: cannot be read"):
        header_of(tmp_path / "none.gguf")
