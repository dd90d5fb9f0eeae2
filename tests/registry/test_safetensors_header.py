"""The header reader accepts what has exactly one reading and names what is wrong with everything else."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from tests.registry.peft_folder import RawFile, raw

from gemlora.errors import AdapterInvalid
from gemlora.registry.safetensors_header import MAX_HEADER_BYTES, read_header

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4, dtype=np.float32).reshape(2, 2)


def two_tensors() -> RawFile:
    return raw({"a": A, "b": B})


def changed(**parts: Any) -> bytes:
    file = two_tensors()
    for part, value in parts.items():
        setattr(file, part, value)
    return file.content


def record(**fields: Any) -> bytes:
    """The file with fields of tensor `b` changed; `...` drops a field."""
    file = two_tensors()
    file.records["b"] = {k: v for k, v in (file.records["b"] | fields).items() if v is not ...}
    return file.content


def named(name: str) -> bytes:
    file = two_tensors()
    file.records[name] = file.records.pop("b")
    return file.content


def header_text(edit: Callable[[str], str]) -> bytes:
    text = json.dumps(two_tensors().records)
    assert edit(text) != text
    return changed(header=edit(text).encode())


def only(value: Any) -> bytes:
    return changed(header=json.dumps(value).encode())


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "has only 0 bytes"),
    "seven bytes": (b"\0" * 7, "has only 7 bytes"),
    "length 0": (changed(length=0), "does not start with '{'|does not end"),
    "length 1": (changed(length=1), "does not end with"),
    "length one too small": (changed(length=len(json.dumps(two_tensors().records)) - 1), "does not end|not valid JSON"),
    "length beyond the file": (changed(length=10_000), "says that its header has 10000 bytes"),
    "length 2^31": (changed(length=2**31), "says that its header"),
    "length 2^63": (changed(length=2**63), "says that its header"),
    "length 2^64 - 1": (changed(length=2**64 - 1), "says that its header"),
    "only a length": (struct.pack("<Q", 0), "does not start with"),
    "header over the limit": (changed(padding=b" " * MAX_HEADER_BYTES), "at most"),
    "blank before the header": (header_text(lambda text: " " + text), "does not start with '{'"),
    "byte order mark": (header_text(lambda text: "\ufeff" + text), "does not start with '{'"),
    "array header": (only([1]), "does not start with '{'"),
    "newline after the header": (changed(padding=b"\n"), "does not end with"),
    "NUL after the header": (changed(padding=b"\0"), "does not end with"),
    "text after the header": (changed(padding=b" {}"), "not valid JSON"),
    "not JSON": (changed(header=b"{a: 1}"), "not valid JSON"),
    "trailing comma": (header_text(lambda text: text[:-1] + ",}"), "not valid JSON"),
    "not UTF-8": (changed(header=b'{"\xff": 1}'), "not UTF-8"),
    "UTF-16": (changed(header=json.dumps({"a": 1}).encode("utf-16-le")), "does not end|not UTF-8|not valid JSON"),
    "NaN in the header": (changed(header=b'{"a": NaN}'), "NaN"),
    "deep nesting": (changed(header=b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deeply"),
    "number of 5,000 digits": (changed(header=b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    "duplicate tensor": (header_text(lambda text: text.replace('"b"', '"a"')), 'the key "a" twice'),
    "duplicate field": (header_text(lambda text: text.replace('"dtype"', '"shape": [1], "dtype"', 1)), "twice"),
    "no tensors": (changed(header=b"{}", data=b""), "contains no tensors"),
    "only metadata": (changed(header=b'{"__metadata__": {"format": "pt"}}', data=b""), "contains no tensors"),
    "metadata is a list": (header_text(lambda text: '{"__metadata__": [], ' + text[1:]), "__metadata__"),
    "metadata with a number": (header_text(lambda text: '{"__metadata__": {"a": 1}, ' + text[1:]), "__metadata__"),
    "empty name": (named(""), "malformed name"),
    "name with NUL": (named("a\0b"), "malformed name"),
    "name with a path": (named("../../etc/passwd"), "malformed name"),
    "name with a newline": (named("b\n"), "malformed name"),
    "name with an umlaut": (named("bä"), "malformed name"),
    "long name": (named("b" * 513), "malformed name"),
    "record is null": (only({"a": None}), "record"),
    "record is a list": (only({"a": [1]}), "record"),
    "record is empty": (only({"a": {}}), "record"),
    "extra field": (record(strides=[2, 1]), "tensor b has a record"),
    "missing dtype": (record(dtype=...), "tensor b has a record"),
    "missing shape": (record(shape=...), "tensor b has a record"),
    "missing offsets": (record(data_offsets=...), "tensor b has a record"),
    "dtype is a number": (record(dtype=3), "tensor b has the dtype 3"),
    "dtype is a list": (record(dtype=["F32"]), "tensor b has the dtype"),
    "dtype in lower case": (record(dtype="f32"), "tensor b has the dtype"),
    "dtype F64": (record(dtype="F64"), 'the dtype "F64"'),
    "dtype I8": (record(dtype="I8"), 'the dtype "I8"'),
    "dtype BOOL": (record(dtype="BOOL"), 'the dtype "BOOL"'),
    "dtype F8_E4M3": (record(dtype="F8_E4M3"), 'the dtype "F8_E4M3"'),
    "shape is a number": (record(shape=4), "has the shape 4"),
    "shape is a text": (record(shape="22"), "has the shape"),
    "dimension 0": (record(shape=[0, 2], data_offsets=[24, 24]), "has the shape"),
    "negative dimension": (record(shape=[-2, -2]), "has the shape"),
    "fractional dimension": (record(shape=[2.0, 2]), "has the shape"),
    "dimension true": (record(shape=[True, 4]), "has the shape"),
    "dimension 2^62": (record(shape=[2**62, 2]), "has the shape"),
    "product over 2^64": (record(shape=[2**33, 2**33]), "needs .* bytes"),
    "product wraps to the right size": (record(shape=[2**32 + 2, 2]), "needs"),
    "nine dimensions": (record(shape=[1] * 8 + [4]), "has the shape"),
    "shape too small": (record(shape=[2, 1]), "needs 8 bytes .* span 16"),
    "shape too large": (record(shape=[2, 3]), "needs 24 bytes .* span 16"),
    "one offset": (record(data_offsets=[24]), "data_offsets"),
    "three offsets": (record(data_offsets=[24, 40, 40]), "data_offsets"),
    "negative offset": (record(data_offsets=[-16, 0]), "data_offsets"),
    "offset is a text": (record(data_offsets=["24", "40"]), "data_offsets"),
    "offset is fractional": (record(data_offsets=[24.0, 40.0]), "data_offsets"),
    "offset 2^64": (record(data_offsets=[2**64, 2**64 + 16]), "data_offsets"),
    "offsets backwards": (record(data_offsets=[40, 24]), "run backwards"),
    "overlap": (record(data_offsets=[20, 36]), "overlaps"),
    "same data twice": (record(shape=[2, 3], data_offsets=[0, 24]), "overlaps"),
    "gap": (record(data_offsets=[28, 44]), "gap of 4 bytes"),
    "gap before the first": (header_text(lambda t: t.replace("[0, 24]", "[40, 64]")), "gap|ends"),
    "behind the end": (changed(data=A.tobytes()), "ends 16 bytes behind"),
    "one byte short": (changed(data=two_tensors().data[:-1]), "ends 1 bytes behind"),
    "one byte more": (changed(tail=b"x"), "1 bytes behind the last tensor"),
    "zip behind the data": (changed(tail=b"PK\x03\x04" + b"\0" * 30), "34 bytes behind the last tensor"),
    "too many tensors": (
        only({f"t{i}": {"dtype": "F16", "shape": [1], "data_offsets": [2 * i, 2 * i + 2]} for i in range(16385)}),
        "at most 16384",
    ),
    "zip archive": (b"PK\x03\x04" + b"\0" * 100, "zip archive"),
    "pickle": (b"\x80\x02}q\x00." + b"\0" * 100, "pickle"),
    "GGUF": (b"GGUF\x03\0\0\0" + b"\0" * 100, "GGUF"),
    "gzip": (b"\x1f\x8b\x08\0" + b"\0" * 100, "gzip"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "JSON": (b'{"error": "not found", "code": 404, "more": "text"}', "JSON text"),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    "zeros": (b"\0" * 1000, "does not start with"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[case]
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(AdapterInvalid, match=reason) as refusal:
        read_header(path)

    assert str(refusal.value).startswith("adapter_model.safetensors")
    assert len(str(refusal.value)) < 400
    assert str(refusal.value).isprintable()


def test_what_the_library_writes_is_read_with_the_same_places(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file({"b": B, "a": A, "half": A.astype(np.float16)}, path, metadata={"format": "pt"})

    entries = {entry.name: entry for entry in read_header(path)}

    content = path.read_bytes()
    with safe_open(path, "numpy") as library:
        assert set(library.keys()) == set(entries)
        for name, entry in entries.items():
            expected = library.get_tensor(name)
            assert entry.shape == expected.shape
            assert content[entry.offset : entry.offset + entry.size] == expected.tobytes()


def test_entries_come_in_the_order_of_their_data_whatever_the_headers_order(tmp_path: Path) -> None:
    file = two_tensors()
    file.records = dict(reversed(file.records.items()))
    path = tmp_path / "file"
    path.write_bytes(file.content)

    assert [entry.name for entry in read_header(path)] == ["a", "b"]


def test_blanks_after_the_header_are_padding(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(changed(padding=b"     "))

    assert len(read_header(path)) == 2


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 3))
def test_damaged_files_are_refused_or_read_as_the_library_reads_them(
    position: int, byte: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(two_tensors().content)
    content[position % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(content[: len(content) - cut]))
    try:
        entries = read_header(path)
    except AdapterInvalid:
        return
    with safe_open(path, "numpy") as library:
        for entry in entries:
            assert path.read_bytes()[entry.offset :][: entry.size] == library.get_tensor(entry.name).tobytes()
