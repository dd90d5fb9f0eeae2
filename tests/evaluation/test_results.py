"""What is found says how much, of how many, and beside what."""

import json
from math import exp

import pytest
from tests.evaluation.made import evaluation

from gemlora.evaluation.judgements import Judged
from gemlora.evaluation.results import as_json, shown_interval, shown_number
from gemlora.evaluation.statistics import Interval, Verdict


def test_missing_answers_have_no_score_and_are_counted() -> None:
    made = evaluation()
    by_name = {(one.measure.name, one.contender.adapter): one for one in made.findings}
    base, pirate = by_name["exact", None], by_name["exact", "pirate"]
    poet = next(one for key, one in by_name.items() if key[0] == "exact" and str(key[1]).startswith("poet"))

    assert (base.scored, base.mean, base.difference, base.sentence) == (8, Interval(0, 0, 0), None, "")
    assert pirate.difference is not None
    assert (pirate.difference.won, pirate.difference.verdict) == (8, Verdict.BETTER)
    assert (
        pirate.sentence
        == "pirate is better than base model in exact: +1.000 (+1.000 to +1.000); 8 won, 0 tied, 0 lost."
    )
    assert (poet.scored, poet.mean) == (7, Interval(1, 1, 1))
    assert poet.difference is not None
    assert poet.difference.won == 7


def test_likelihoods_are_weighted_by_tokens_and_shown_as_perplexity() -> None:
    base, pirate, poet = [one for one in evaluation().findings if one.measure.name == "nll"]

    assert base.mean is not None
    assert base.mean.value == (2 * (1 + 3 + 5 + 7) + 3 * (2 + 4 + 6 + 8)) / 36
    assert base.perplexity is not None
    assert base.perplexity.value == pytest.approx(exp(base.mean.value))
    assert pirate.difference is not None
    assert pirate.difference.verdict is Verdict.BETTER
    assert pirate.difference.mean.value < 0
    assert poet.difference is not None
    assert poet.difference.tied == 8
    assert "no difference shown in nll: 0.000 (0.000 to 0.000); 0 won, 8 tied" in poet.sentence


def test_json_holds_everything() -> None:
    written = as_json(evaluation(), [Judged("base model", "pirate", 6, 1, 0, 2)])

    read = json.loads(json.dumps(written, allow_nan=False))
    assert read["version"] == 1
    assert read["failed"] == 1
    assert [one["adapter"] for one in read["contenders"][:2]] == [None, "pirate"]
    assert read["cases"][2]["scores"]["exact"] == [0, 1, None]
    assert read["cases"][2]["answers"][2]["failure"].startswith("500")
    assert read["findings"][1]["difference"]["verdict"] == "better"
    assert read["judgements"][0]["share"]["value"] == 1
    assert read["judgements"][0]["verdict"] == "better"
    assert as_json(None, []) == {"version": 1}


def test_numbers_have_as_many_digits_as_can_be_read() -> None:
    numbers = (0.0, 0.12345, 12.345, 1663.301, 98765.4)
    assert [shown_number(one) for one in numbers] == ["0.000", "0.123", "12.35", "1663", "98765"]
    assert [shown_number(one, signed=True) for one in (0.5, -0.0001, 0)] == ["+0.500", "0.000", "0.000"]
    assert shown_interval(Interval(0.5, -0.25, 1), signed=True) == "+0.500 (-0.250 to +1.000)"
