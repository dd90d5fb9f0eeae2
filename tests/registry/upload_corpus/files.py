"""Weights files that are not the safetensors that they should be, beside a config that is right."""

import json
import struct
from collections.abc import Callable
from typing import Any

from tests.registry.peft_folder import RawFile, raw, tensors

LAST = list(tensors())[-1]
"""[4, 2] in F32: the last 32 bytes."""


def plain() -> RawFile:
    return raw(tensors())


END = len(plain().data)
BEGIN = END - 32
TEXT = json.dumps(plain().records)
SIZE = len(plain().content)


def changed(**parts: Any) -> bytes:
    file = plain()
    for part, value in parts.items():
        setattr(file, part, value)
    return file.content


def header(edit: Callable[[str], str]) -> bytes:
    assert edit(TEXT) != TEXT
    return changed(header=edit(TEXT).encode())


def record(**fields: Any) -> bytes:
    """Fields of the last tensor changed; `...` drops a field."""
    file = plain()
    file.records[LAST] = {k: v for k, v in (file.records[LAST] | fields).items() if v is not ...}
    return file.content


def named(name: str) -> bytes:
    file = plain()
    file.records[name] = file.records.pop(LAST)
    return file.content


def with_metadata(text: str) -> bytes:
    return header(lambda old: f'{{"__metadata__": {text}, {old[1:]}')


def dimensions(*shapes: Any) -> dict[str, tuple[bytes, str]]:
    return {f"shape {shape!r}": (record(shape=shape), "has the shape|needs .* bytes") for shape in shapes}


def places(*offsets: Any) -> dict[str, tuple[bytes, str]]:
    return {f"offsets {pair!r}": (record(data_offsets=pair), "data_offsets") for pair in offsets}


STARTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has only 0 bytes"),
    "seven bytes": (b"\0" * 7, "has only 7 bytes"),
    "only a length": (struct.pack("<Q", 0), "does not start with"),
    **{f"length {length}": (changed(length=length), "header")
       for length in (0, 1, 2, len(TEXT) - 1, len(TEXT) + 1, SIZE - 7, SIZE, 2**31, 2**32, 2**63, 2**64 - 1)},
    "length in big endian": (struct.pack(">Q", len(TEXT)) + plain().content[8:], "says that its header"),
    "header over the limit": (changed(padding=b" " * (4 << 20)), "at most"),
    "blank before the header": (header(lambda text: " " + text), "does not start with '{'"),
    "newline before the header": (header(lambda text: "\n" + text), "does not start with '{'"),
    "byte order mark": (header(lambda text: "\ufeff" + text), "does not start with '{'"),
    "zip archive": (b"PK\x03\x04" + b"\0" * 100, "zip archive"),
    "pickle": (b"\x80\x02}q\x00." + b"\0" * 100, "pickle"),
    "GGUF": (b"GGUF\x03\0\0\0" + b"\0" * 100, "GGUF"),
    "gzip": (b"\x1f\x8b\x08\0" + b"\0" * 100, "gzip"),
    "NumPy": (b"\x93NUMPY\x01\0" + b"\0" * 100, "says that its header"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "JSON": (b'{"error": "not found", "code": 404, "more": "text"}', "JSON text"),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    "zeros": (b"\0" * 1000, "does not start with"),
    "ones": (b"\xff" * 1000, "says that its header"),
    "text": (b"hello world, this is not it", "says that its header"),
    "only a header": (changed(data=b""), "ends .* bytes behind"),
}  # fmt: skip

HEADERS: dict[str, tuple[bytes, str]] = {
    "array header": (changed(header=b"[1]"), "does not start with '{'"),
    "newline after the header": (changed(padding=b"\n"), "does not end with"),
    "tab after the header": (changed(padding=b"\t"), "does not end with"),
    "NUL after the header": (changed(padding=b"\0"), "does not end with"),
    "object after the header": (changed(padding=b" {}"), "not valid JSON"),
    "not JSON": (changed(header=b"{a: 1}"), "not valid JSON"),
    "trailing comma": (header(lambda text: text[:-1] + ",}"), "not valid JSON"),
    "comment": (header(lambda text: text[:-1] + "/**/}"), "not valid JSON"),
    "not UTF-8": (changed(header=b'{"\xff": 1}'), "not UTF-8"),
    "NaN in the header": (header(lambda text: text.replace("[0,", "[NaN,")), "NaN"),
    "deep nesting": (changed(header=b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deeply"),
    "990 lists": (with_metadata("[" * 990 + "]" * 990), "nested too deeply"),
    "33 lists in a shape": (record(shape=json.loads("[" * 33 + "]" * 33)), "nested too deeply"),
    "number of 5,000 digits": (header(lambda text: text.replace("[0,", "[" + "9" * 5000 + ",")), "not valid JSON"),
    "duplicate tensor": (header(lambda t: t.replace('"}}', '"}}').replace(LAST, next(iter(tensors())))), "twice"),
    "duplicate tensor with an escape": (
        header(lambda text: text[:-1] + f', "\\u0062{LAST[1:]}": ' + json.dumps(plain().records[LAST]) + "}"), "twice"
    ),
    "duplicate field": (header(lambda text: text.replace('"dtype"', '"shape": [1], "dtype"', 1)), "twice"),
    "duplicate metadata": (with_metadata('{}, "__metadata__": {}'), "twice"),
    "duplicate key in metadata": (with_metadata('{"a": "1", "a": "2"}'), "twice"),
    **{f"metadata {text}": (with_metadata(text), "__metadata__")
       for text in ("[]", "null", "1", '"pt"', '{"a": 1}', '{"a": null}', '{"a": {}}', '{"a": ["b"]}', '{"a": true}')},
    "no tensors": (changed(header=b"{}", data=b""), "contains no tensors"),
    "only metadata": (changed(header=b'{"__metadata__": {"format": "pt"}}', data=b""), "contains no tensors"),
    "too many tensors": (
        changed(header=json.dumps(
            {f"t{i}": {"dtype": "F16", "shape": [1], "data_offsets": [2 * i, 2 * i + 2]} for i in range(16385)}
        ).encode()),
        "at most 16384",
    ),
    **{f"name {name!r:.40}": (named(name), "malformed name")
       for name in ("", "a\0b", "../../etc/passwd", "/etc/passwd", LAST + "\n", " " + LAST, LAST + "ä", "a" * 513,
                    "q\u200bproj", "{{7*7}}", "${jndi:ldap://x}", "'; drop table adapters; --", "<script>", "\ud800")},
    "name in upper case": (named(LAST.upper()), "belongs to no module"),
    **{f"record {json.dumps(value)}": (changed(records=plain().records | {LAST: value}), "record")
       for value in (None, [1], {}, "F32", 1, True)},
    **{f"field {field} missing": (record(**{field: ...}), "has a record")
       for field in ("dtype", "shape", "data_offsets")},
    **{f"field {field} added": (record(**{field: 1}), "has a record") for field in ("strides", "Dtype", "sparse", "")},
}  # fmt: skip

TENSORS: dict[str, tuple[bytes, str]] = {
    **{f"dtype {dtype!r}": (record(dtype=dtype), "has the dtype")
       for dtype in ("F64", "I8", "U8", "I16", "I32", "I64", "U64", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "f32",
                     "float32", "F32 ", "", None, 3, True, ["F32"], {"F32": 1})},
    "dtype of half the bytes": (record(dtype="F16"), "needs 16 bytes .* span 32"),
    **dimensions(4, "42", None, True, {}, [-4, -2], [4.0, 2], [True, 8], ["4", 2], [None], [[4, 2]], [2**62, 2], [0, 2],
                 [4, 0], [2**33, 2**33], [2**32 + 4, 2], [4, 1], [4, 3], [1] * 8 + [8], [10**400, 1], [-0.0, 2]),
    **places([BEGIN], [BEGIN, END, END], [], None, 3, "0", {}, [-32, 0], [str(BEGIN), str(END)], [float(BEGIN), END],
             [True, END], [None, None], [[BEGIN], [END]], [2**64, 2**64 + 32], [10**400, 10**400 + 32], [END, BEGIN]),
    "overlap": (record(data_offsets=[BEGIN - 4, END - 4]), "overlaps"),
    "same data twice": (record(data_offsets=[0, 32]), "overlaps"),
    "gap": (record(data_offsets=[BEGIN + 4, END + 4]), "gap of 4 bytes"),
    "far gap": (record(data_offsets=[2**39, 2**39 + 32]), "gap of"),
    "gap before the first": (header(lambda text: text.replace("[0, 64]", f"[{END}, {END + 64}]")), "gap"),
    "empty tensor more": (
        changed(records=plain().records | {"e": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
        "tensor e has the shape",
    ),
    "one byte short": (changed(data=plain().data[:-1]), "ends 1 bytes behind"),
    "one byte more": (changed(tail=b"x"), "1 bytes behind the last tensor"),
    "zeros behind": (changed(tail=b"\0" * 4096), "4096 bytes behind the last tensor"),
    "zip behind the data": (changed(tail=b"PK\x03\x04" + b"\0" * 30), "34 bytes behind the last tensor"),
    "whole file behind": (changed(tail=plain().content), "bytes behind the last tensor"),
    **{f"cut at {cut}": (plain().content[:cut], "has only . bytes|says that its header|ends .* bytes behind") for cut in
       (1, 4, 7, 8, 9, 16, 100, 500, 1000, len(TEXT), len(TEXT) + 7, len(TEXT) + 8, SIZE - 64, SIZE - 2)},
}  # fmt: skip

READABLE: dict[str, bytes] = {
    "blanks after the header": changed(padding=b"       "),
    "metadata": with_metadata('{"format": "pt", "": "", "a.b": "\\u0000", "模型": "🙂"}'),
    "empty metadata": with_metadata("{}"),
    "metadata that is a path": with_metadata('{"path": "../../etc/passwd"}'),
    "indented header": changed(header=json.dumps(plain().records, indent=2).encode()),
    "records in another order": changed(records=dict(reversed(plain().records.items()))),
    "fields in another order": changed(
        records={name: dict(reversed(fields.items())) for name, fields in plain().records.items()}
    ),
    "escaped name": header(lambda text: text.replace(LAST, "\\u0062" + LAST[1:])),
    **{f"header padded to {size} bytes": changed(padding=b" " * (-len(TEXT) % size)) for size in (8, 64, 4096)},
}
"""Files that are read as any other, however their headers are written."""
