"""Log-probabilities of given texts are those of the float32 model in transformers and PEFT, in whatever batches."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from tests import checkpoints
from tests.adapters import peft_model, registered, save_peft
from tests.checkpoints import Checkpoint
from tests.engines.cpu.test_lora import ALL, loader, runner

from gemlora.engines.cpu.scoring import GivenText, Scoring, log_probability
from gemlora.errors import EngineFailed, PromptTooLong
from gemlora.kernels import Kernels

RANDOM = np.random.default_rng(3)
LENGTHS = ((1, 1), (5, 40), (40, 3), (33, 31), (2, 70), (64, 1))
"""Of prompts and answers: beside the ends of blocks and of steps."""

TEXTS = [tuple(tuple(RANDOM.integers(0, checkpoints.VOCABULARY, n).tolist()) for n in lengths) for lengths in LENGTHS]


def expected(model: torch.nn.Module, prompt: tuple[int, ...], answer: tuple[int, ...]) -> np.ndarray:
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].double()
    rows = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
    return rows[torch.arange(len(answer)), torch.tensor(answer)].numpy()


@pytest.mark.parametrize("rows", [1, 7, 128])
@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_the_base_and_an_adapter_side_by_side_equal_transformers_and_peft(
    checkpoint: Callable[[str], Checkpoint], native: Kernels, tmp_path: Path, architecture: str, rows: int
) -> None:
    case = checkpoint(architecture)
    base = [expected(case.oracle, *text) for text in TEXTS]
    adapted_model = peft_model(case.oracle, LoraConfig(r=8, lora_alpha=16, target_modules=ALL), seed=2)
    folder = save_peft(adapted_model, tmp_path, torch.float32)
    adapter = loader(case, tmp_path).load(registered(folder, case.weights.config))
    adapted = [expected(adapted_model, *text) for text in TEXTS]
    seen: list[tuple[int, int]] = []

    found = Scoring(runner(case, native), checkpoints.CONTEXT, rows).log_probabilities(
        [GivenText(*text, with_) for text in TEXTS for with_ in (None, adapter)], lambda *at: seen.append(at)
    )

    for index in range(len(TEXTS)):
        np.testing.assert_allclose(found[2 * index], base[index], atol=1e-4)
        np.testing.assert_allclose(found[2 * index + 1], adapted[index], atol=1e-4)
    assert max(np.abs(a - b).max() for a, b in zip(base, adapted, strict=True)) > 0.05
    assert seen[-1] == (2 * len(TEXTS), 2 * len(TEXTS))
    assert seen == sorted(seen)


def test_few_blocks_suffice_and_change_nothing(checkpoint: Callable[[str], Checkpoint], native: Kernels) -> None:
    case = checkpoint("gemma3")
    texts = [GivenText(*text) for text in TEXTS]
    small = runner(case, native)
    small.blocks = 3

    tight = Scoring(small, 96).log_probabilities(texts, lambda *_: None)

    wide = Scoring(runner(case, native), checkpoints.CONTEXT).log_probabilities(texts, lambda *_: None)
    assert all(map(np.array_equal, tight, wide))


def test_a_text_that_does_not_fit_is_refused(checkpoint: Callable[[str], Checkpoint], native: Kernels) -> None:
    scoring = Scoring(runner(checkpoint("gemma3"), native), 50)

    with pytest.raises(PromptTooLong, match=r"\(51\)"):
        scoring.log_probabilities([GivenText((1,) * 40, (2,) * 11)], lambda *_: None)


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(EngineFailed, match="not finite"):
        log_probability(np.array([1, np.inf], np.float32), 0)
