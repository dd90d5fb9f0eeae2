"""What commands print: tables for people, JSON for scripts."""

import json
from collections.abc import Sequence

from gemlora.cli.targets import Record


def print_json(value: Record | list[Record]) -> None:
    """As indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """In columns."""
    cells = [tuple(heads), *(tuple(shown(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def shown(value: object) -> str:
    """As one line without control characters, which would speak to the terminal; `-` for nothing."""
    if value is None or value == "" or value == []:
        return "-"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
