"""Config files that are not the JSON that they should be, beside weights that are right."""

import json

from tests.registry.peft_folder import config

PLAIN = json.dumps(config())


def edited(old: str, new: str) -> bytes:
    assert old in PLAIN
    return PLAIN.replace(old, new, 1).encode()


def nested(depth: int, opening: str, closing: str) -> bytes:
    return edited("{", '{"hyper": ' + opening * depth + "1" + closing * depth + ", ")


TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "blank": (b" \n\t ", "not valid JSON"),
    "NULs": (b"\0" * 64, "not valid JSON"),
    "NUL at the end": (PLAIN.encode() + b"\0", "not valid JSON"),
    "a list": (b"[]", "not a JSON object"),
    "a list of configs": (f"[{PLAIN}]".encode(), "not a JSON object"),
    "null": (b"null", "not a JSON object"),
    "true": (b"true", "not a JSON object"),
    "a number": (b"8", "not a JSON object"),
    "a text": (b'"LORA"', "not a JSON object"),
    "two objects": ((PLAIN * 2).encode(), "not valid JSON"),
    "text behind": (PLAIN.encode() + b"x", "not valid JSON"),
    "cut": (PLAIN.encode()[:-1], "not valid JSON"),
    "cut in a text": (PLAIN.encode()[:20], "not valid JSON"),
    "an empty object": (b"{}", "peft_type is null"),
    "NaN": (edited('"lora_alpha": 4', '"lora_alpha": NaN'), "NaN"),
    "infinity": (edited('"lora_alpha": 4', '"lora_alpha": Infinity'), "Infinity"),
    "minus infinity": (edited('"lora_alpha": 4', '"lora_alpha": -Infinity'), "Infinity"),
    "NaN that nobody reads": (edited("{", '{"revision": NaN, '), "NaN"),
    "1e999": (edited('"lora_alpha": 4', '"lora_alpha": 1e999'), "lora_alpha is"),
    "duplicate key": (edited("{", '{"r": 9, '), '"r" twice'),
    "duplicate key with equal values": (edited("{", '{"r": 2, '), '"r" twice'),
    "duplicate key spelled otherwise": (edited("{", '{"\\u0072": 2, '), '"r" twice'),
    "duplicate key below": (edited("{", '{"rank_pattern": {"a": 1, "a": 2}, '), '"a" twice'),
    "duplicate key far below": (edited("{", '{"eva_config": {"x": [{"a": 1, "a": 2}]}, '), '"a" twice'),
    "line comment": (b"// PEFT\n" + PLAIN.encode(), "not valid JSON"),
    "block comment": (edited('"r"', '/* rank */ "r"'), "not valid JSON"),
    "trailing comma": (PLAIN[:-1].encode() + b",}", "not valid JSON"),
    "single quotes": (PLAIN.replace('"', "'").encode(), "not valid JSON"),
    "bare keys": (edited('"r"', "r"), "not valid JSON"),
    "Python's values": (edited('"r": 2', '"r": None'), "not valid JSON"),
    "hexadecimal": (edited('"r": 2', '"r": 0x2'), "not valid JSON"),
    "leading zero": (edited('"r": 2', '"r": 02'), "not valid JSON"),
    "plus sign": (edited('"r": 2', '"r": +2'), "not valid JSON"),
    "newline in a text": (edited('"LORA"', '"LO\nRA"'), "not valid JSON"),
    "tab in a text": (edited('"LORA"', '"LO\tRA"'), "not valid JSON"),
    "unknown escape": (edited('"LORA"', '"\\xLORA"'), "not valid JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + PLAIN.encode(), "not valid JSON"),
    "UTF-16": (PLAIN.encode("utf-16"), "not UTF-8"),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), "not valid JSON"),
    "UTF-32": (PLAIN.encode("utf-32-le"), "not valid JSON"),
    "Latin-1": (edited('"tiny-gemma"', '"tiny-gémma"').decode().encode("latin-1"), "not UTF-8"),
    "overlong UTF-8": (edited('"LORA"', '"LORAx"').replace(b"x", b"\xc0\x80"), "not UTF-8"),
    "surrogate in UTF-8": (edited('"LORA"', '"LORAx"').replace(b"x", b"\xed\xa0\x80"), "not UTF-8"),
    "lone surrogate": (edited('"LORA"', '"LORA\\ud800"'), "peft_type is"),
    "surrogate in a key": (edited("{", '{"\\ud800": 1, '), "is not known"),
    "surrogate in a target": (edited('"q_proj"', '"q_proj", "\\ud800"'), "target_modules"),
    "surrogate in a pattern": (edited("{", '{"rank_pattern": {"\\ud800": 2}, '), "rank_pattern"),
    "surrogate in an expression": (edited('["q_proj", "v_proj"]', '"\\ud800"'), "target_modules"),
    "letters that look alike": (edited('"LORA"', '"LОRA"'), "peft_type is"),
    "5,000 digits": (edited('"r": 2', '"r": ' + "9" * 5000), "not valid JSON"),
    "4,000 digits": (edited('"r": 2', '"r": ' + "9" * 4000), "r is 999"),
    "exponent of 4,000 digits": (edited('"lora_alpha": 4', '"lora_alpha": 1e' + "9" * 4000), "lora_alpha is"),
    "33 lists": (nested(33, "[", "]"), "nested too deeply"),
    "900 lists": (nested(900, "[", "]"), "nested too deeply"),
    "990 lists": (nested(990, "[", "]"), "nested too deeply"),
    "990 objects": (nested(990, '{"a":', "}"), "nested too deeply"),
    "100,000 lists": (nested(100_000, "[", "]"), "nested too deeply"),
    "200,000 objects that never end": (b'{"a":' * 200_000, "nested too deeply"),
    "a pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "not UTF-8"),
    "YAML": (b"peft_type: LORA\nr: 2\n", "not valid JSON"),
    "a web page": (b"<!DOCTYPE html><html></html>", "not valid JSON"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not valid JSON"),
}

READABLE: dict[str, bytes] = {
    "indented": json.dumps(config(), indent=4).encode(),
    "Windows lines": json.dumps(config(), indent=2).replace("\n", "\r\n").encode(),
    "sorted and padded": b"\n\n  " + json.dumps(config(), sort_keys=True).encode() + b"  \n",
    "escaped letters": edited('"LORA"', '"\\u004c\\u004f\\u0052\\u0041"'),
    "escaped key": edited('"r"', '"\\u0072"'),
    "far script": edited('"tiny-gemma"', '"模型/𝒢/🙂"'),
    "surrogate that nobody reads": edited("{", '{"revision": "\\ud800", '),
    "thirty lists": edited("{", '{"eva_config": ' + "[" * 30 + "]" * 30 + ", "),
    "alpha as 4.0": edited('"lora_alpha": 4', '"lora_alpha": 4.0'),
    "alpha as 4e0": edited('"lora_alpha": 4', '"lora_alpha": 4e0'),
}
"""Configs that are read as any other, however they are written."""
