"""The playground's export, in both its forms, becomes counts and what they show."""

import json
from pathlib import Path

import pytest

from gemlora.errors import EvaluationInvalid
from gemlora.evaluation.judgements import Judged, read_judgements
from gemlora.evaluation.statistics import Verdict

PAIRS = [
    *[("Base model", "pirate", verdict) for verdict in ["better"] * 9 + ["same", "worse", None]],
    ("pirate", "=poet", "worse"),
]
EXPECTED = (Judged("Base model", "pirate", 9, 1, 1, 1), Judged("pirate", "=poet", 0, 0, 1, 0))


def as_json(tmp_path: Path) -> Path:
    path = tmp_path / "comparisons.json"
    comparisons = [
        {"prompt": "a", "pairs": [{"left": left, "right": right, "verdict": verdict}]} for left, right, verdict in PAIRS
    ]
    path.write_text(json.dumps(comparisons, indent=2))
    return path


def as_csv(tmp_path: Path) -> Path:
    """As `export.js` writes it: everything quoted, and an apostrophe before what looks like a formula."""
    path = tmp_path / "comparisons.csv"
    rows = ['"time","prompt","left","right","verdict"']
    for left, right, verdict in PAIRS:
        name = f"'{right}" if right.startswith("=") else right
        rows.append(f'"t","two\nlines, ""quoted""","{left}","{name}","{verdict or ""}"')
    path.write_bytes(("\r\n".join(rows) + "\r\n").encode())
    return path


@pytest.mark.parametrize("write", [as_json, as_csv])
def test_both_exports_give_the_same_counts(tmp_path: Path, write: object) -> None:
    assert read_judgements(write(tmp_path)) == EXPECTED


def test_shares_and_verdicts_are_of_the_pairs_that_differ() -> None:
    shown, alone = EXPECTED

    assert shown.share is not None
    assert shown.share.value == 0.9
    assert shown.verdict is Verdict.BETTER
    assert Judged("a", "b", 1, 5, 9, 0).verdict is Verdict.WORSE
    assert alone.verdict is Verdict.NOT_SHOWN
    assert Judged("a", "b", 0, 3, 0, 0).share is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "has no comparisons"),
        ("", "has no comparisons"),
        ("[{}]", "KeyError: 'pairs'"),
        ("[1", "JSONDecodeError"),
        ('[{"pairs": [{"left": "a", "right": "b", "verdict": "great"}]}]', "a verdict 'great'"),
        ("left,right\na,b\n", "KeyError: 'verdict'"),
    ],
)
def test_what_is_no_export_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "export"
    path.write_text(text)

    with pytest.raises(EvaluationInvalid, match=reason):
        read_judgements(path)
