"""What a probe computes, on logits and prompts by hand, and on a real model."""

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import pytest
from tests.lora_pairs import embedding_pair
from tests.stepping import TOKENS, LateExecutor, ListMailbox, constraining

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters import AdapterPool
from gemlora.engines.cpu.blocks import BlockPool
from gemlora.engines.cpu.engine import StepLoop
from gemlora.engines.cpu.frames import ProbeAdapter, Probed
from gemlora.engines.cpu.pace import Pace
from gemlora.engines.cpu.prefix_cache import PrefixCache
from gemlora.engines.cpu.probing import LENGTH, MOST_CHANGED, Probing, probe_prompt, with_changed_tokens
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.sampler import Sampler
from gemlora.engines.cpu.scheduler import Scheduler
from gemlora.engines.cpu.speculation import Speculation
from gemlora.errors import AdapterInvalid, EngineFailed
from gemlora.kernels import Kernels, LoraWeights


def probed(plain: list[float], adapted: list[float]) -> Probing:
    probing = Probing()
    probing.keep(np.array(adapted, np.float32), adapted=True)
    probing.keep(np.array(plain, np.float32), adapted=False)
    return probing


def test_the_difference_is_relative_to_the_largest_logit() -> None:
    assert probed([1, -4], [2, -4]).difference == 0.25
    assert probed([1, -4], [1, -4]).difference == 0
    assert probed([0, 0], [0, 1]).difference == 1


def test_logits_are_copied() -> None:
    logits = np.ones(3, np.float32)
    probing = Probing()
    probing.keep(logits, adapted=True)
    logits[:] = 2
    probing.keep(logits, adapted=False)
    assert probing.difference == 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_whose_fault_it_is_that_logits_are_not_finite(value: float) -> None:
    with pytest.raises(AdapterInvalid, match="not finite"):
        _ = probed([1, 2], [1, value]).difference
    with pytest.raises(EngineFailed, match="not finite"):
        _ = probed([1, value], [1, 2]).difference


def test_the_prompt_comes_from_all_over_the_vocabulary() -> None:
    prompt = probe_prompt(262144, 2)
    assert len(prompt) == LENGTH
    assert prompt[0] == 2
    assert len(set(prompt)) == LENGTH
    assert max(prompt) < 262144


@pytest.mark.parametrize(
    ("changed", "expected"), [([], []), ([7], [7]), ([3, 9], [3, 9]), (range(100), [0, 33, 66, 99])]
)
def test_the_prompt_ends_with_tokens_whose_embedding_changes(changed: Any, expected: list[int]) -> None:
    a = np.zeros((100, 2), np.float32)
    a[list(changed), 1] = 1
    prompt = tuple(range(200, 200 + LENGTH))
    found = with_changed_tokens(prompt, embedding_pair(a, np.ones((2, 4), np.float32), 1.0))
    assert len(expected) <= MOST_CHANGED
    assert found == (*prompt[: LENGTH - len(expected)], *expected)


class OneEmbedding:
    """An adapter that changes the embedding of one token alone."""

    def __init__(self, vocabulary: int, hidden: int, token: int) -> None:
        a = np.zeros((vocabulary, 1), np.float32)
        a[token] = 1
        self._weights = LoraWeights("x", {}, embedding_pair(a, np.ones((1, hidden), np.float32), 1.0))

    def size(self, ref: AdapterRef) -> int:
        return self._weights.size

    def open(self, ref: AdapterRef) -> LoraWeights:
        return self._weights

    def pack(self, ref: AdapterRef) -> LoraWeights:
        return self._weights

    def discard(self, digest: str) -> None:
        pass


def test_an_adapter_of_a_single_tokens_embedding_makes_a_difference(
    checkpoint: Callable[..., Any], native: Kernels
) -> None:
    model = checkpoint("gemma3").weights
    config = model.config
    prompt = probe_prompt(config.vocabulary, 2)
    token = next(token for token in range(config.vocabulary) if token not in prompt)
    mailbox, executor = ListMailbox(), LateExecutor()
    runner = Runner(model, native, context=64, kv_cache_bytes=1 << 20)
    scheduler = Scheduler(PrefixCache(BlockPool(runner.blocks), "", most_idle=0), 4, Pace(64, inf))
    adapters = OneEmbedding(config.vocabulary, config.hidden, token)
    loop = StepLoop(
        mailbox, scheduler, runner, Sampler(native),
        AdapterPool(adapters, 1 << 20, executor, executor, lambda: None), Speculation(0),
        constraining(TOKENS, executor),
        context_window=64, vocabulary=config.vocabulary, probe_prompt=prompt,
    )  # fmt: skip
    mailbox.commands.append(ProbeAdapter("a", AdapterRef("x", "", "", "")))
    for _ in range(4):
        loop.step()
        executor.run()
    (result,) = [event for event in mailbox.events if isinstance(event, Probed)]
    assert result.difference > 0.01
