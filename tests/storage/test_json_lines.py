"""JSONL files are read whole, or refused with every line that is wrong."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gemlora.errors import TrainingDataInvalid
from gemlora.storage.json_lines import JsonLines, read_json_lines


def read(path: Path) -> JsonLines[tuple[int, str]]:
    """The texts that lines have as `a`, with the lines' numbers."""

    def text(number: int, content: dict[str, Any]) -> tuple[int, str]:
        if "a" not in content:
            raise ValueError("has no a")
        return number, content["a"]

    return read_json_lines(path, text, TrainingDataInvalid)


def test_every_line_with_an_object_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes('\ufeff{"a": "é\u2028x"}\r\n\n  \n{"a": "2"}'.encode())
    assert read(path) == JsonLines(sha256(path.read_bytes()).hexdigest(), ((1, "é\u2028x"), (4, "2")))
    path.write_bytes(b"")
    assert read(path).items == ()


def test_every_wrong_line_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("\n".join(['{"a": "1"}', '{"a"', "[1]", '{"b": 1}', '{"a": ' + "[" * 100_000]))
    with pytest.raises(TrainingDataInvalid) as refused:
        read(path)
    assert str(refused.value).splitlines() == [
        f"{path}, line 2: is not JSON: Expecting ':' delimiter at column 5",
        f"{path}, line 3: is not a JSON object",
        f"{path}, line 4: has no a",
        f"{path}, line 5: is nested too deeply",
    ]


def test_only_the_first_of_many_wrong_lines_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("[]\n" * 13)
    with pytest.raises(TrainingDataInvalid) as refused:
        read(path)
    assert str(refused.value).count("is not a JSON object") == 10
    assert str(refused.value).endswith("\n… and 3 more")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="none: cannot be read: No such file"):
        read(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b'{"a": "b"}\n{"a": "\xe9"}')
    with pytest.raises(TrainingDataInvalid, match="latin, line 2: is not UTF-8"):
        read(tmp_path / "latin")
