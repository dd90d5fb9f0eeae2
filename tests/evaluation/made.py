"""An evaluation as it would come out, with answers that would like to be markup."""

import numpy as np

from gemlora.evaluation.asking import Answer, Asked, Contender
from gemlora.evaluation.cases import Case, Cases
from gemlora.evaluation.results import NATS, Evaluation, Measure, find, score_answers
from gemlora.evaluation.scorers import find_scorers
from gemlora.evaluation.statistics import Bootstrap

HOSTILE = "</pre><script>alert(1)</script>\x00<img src=http://elsewhere/x onerror=alert(1)>\ud800"
LIKELIHOODS = [[2.0, 1.0, 2.0], [3.0, 2.5, 3.0]] * 4
CONTENDERS = (Contender(None), Contender("pirate"), Contender(f"poet {HOSTILE}"))


def evaluation() -> Evaluation:
    """Of eight cases: pirate is always right, the base never, and the poet once has no answer."""
    cases = Cases(
        "cases.jsonl",
        "d" * 64,
        tuple(Case(f"<b>{n}</b>", n, {"prompt": f"<i>question</i> {n}"}, ("yes", "&amp;"), {}) for n in range(1, 9)),
    )
    answers = [[Answer(HOSTILE), Answer("yes"), Answer("yes", cut=True)] for _ in cases.cases]
    answers[2][2] = Answer(failure="500, code 3043: <b>broken</b>")
    weights = np.arange(1, 9, dtype=np.float64)
    measures = (
        *score_answers(cases, answers, find_scorers(["exact", "f1"])),
        Measure("nll", np.array(LIKELIHOODS), weights, NATS, lower_is_better=True),
    )
    return Evaluation(
        cases, CONTENDERS, Asked(answers, 2.0), measures, find(measures, CONTENDERS, Bootstrap(400)), {"Model": "<m>"}
    )
