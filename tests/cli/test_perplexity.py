"""`gemlora evaluate --perplexity` on a tiny model finds what transformers and PEFT find."""

import json
from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.conftest import Command, write_cases
from tests.e2e.tiny_model import TinyModel, tokenizer

from gemlora.cli.local import LocalTarget
from gemlora.errors import EvaluationInvalid
from gemlora.settings import Settings


def test_perplexity_is_that_of_transformers_and_peft(gemlora: Command, tmp_path: Path) -> None:
    tiny = TinyModel.write(tmp_path / "tiny")
    adapter = tiny.adapter(tmp_path / "peft", seed=1)
    here = ("--data-dir", tmp_path / "data", "--cache-dir", tmp_path / "cache", "--weights", tiny.folder)
    here = (*here, "--quantize", "none", "--model", "@cf/tiny")
    added = gemlora("adapters", "add", "random", adapter.folder, *here)
    assert added.status == 0, added.errors
    cases = write_cases(
        tmp_path,
        [
            {"prompt": "the first question", "expected": ["an answer", "another one"]},
            {
                "messages": [
                    {"role": "user", "content": "and"},
                    {"role": "assistant", "content": "a much longer answer"},
                ]
            },
        ],
    )

    done = gemlora(
        "evaluate", cases, "--adapter", "random", "--perplexity", "--max-tokens", 2, "--json", "r.json", *here
    )

    assert done.status == 0, done.errors
    result = json.loads((tmp_path / "r.json").read_text())
    texts = [("the first question", "an answer"), ("and", "a much longer answer")]
    found = np.array([case["scores"]["nll"] for case in result["cases"]])
    expected = [[likelihood(tiny, model, *text) for model in (tiny.oracle, adapter.model)] for text in texts]
    np.testing.assert_allclose(found, [[total / count for total, count in row] for row in expected], atol=1e-3)
    means = {one["contender"]: one for one in result["findings"] if one["measure"] == "nll"}
    for column, label in enumerate(("base model", "random")):
        mean = sum(row[column][0] for row in expected) / sum(row[column][1] for row in expected)
        assert means[label]["perplexity"]["value"] == pytest.approx(exp(mean), rel=2e-3)

    folders = {"data_dir": "data", "cache_dir": "cache", "weights": "tiny"}
    flags = {key: str(tmp_path / name) for key, name in folders.items()}
    other = Settings.load({**flags, "quantize": "int8", "model": "@cf/tiny"}, None)
    with pytest.raises(EvaluationInvalid, match="give it the same weights and quantize"):
        LocalTarget(other, None).likelihoods([], [None], lambda *_: None, lambda *_: None)
    fake = gemlora("evaluate", cases, "--perplexity", *here, "--engine", "fake")
    assert (fake.status, "The fake engine has no probabilities" in fake.errors) == (1, True)


def likelihood(tiny: TinyModel, model: torch.nn.Module, prompt: str, answer: str) -> tuple[float, int]:
    """The negative log-likelihood of the answer in Gemma's chat format, and its tokens."""
    pieces = tokenizer(tiny.folder)
    start, end = pieces.piece_to_id("<start_of_turn>"), pieces.piece_to_id("<end_of_turn>")
    line = pieces.encode("\n")
    before = [pieces.bos_id(), start, *pieces.encode(f"user\n{prompt}"), end, *line, start, *pieces.encode("model\n")]
    ids = pieces.encode(answer)
    with torch.inference_mode():
        logits = model(torch.tensor([[*before, *ids]]), use_cache=False).logits[0].double()
    rows = torch.log_softmax(logits, -1)[len(before) - 1 : -1]
    return -float(rows[torch.arange(len(ids)), torch.tensor(ids)].sum()), len(ids)
