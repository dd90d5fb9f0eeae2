"""Settings become what reads given texts: the packed weights, their tokenizer and the kernels, in this process.

The weights are mapped, so beside a server that has them already they take no memory of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gemlora.app.application import Records, model_of
from gemlora.app.backend import DEFAULT_CONTEXT_WINDOW, packed_folder
from gemlora.engines.cpu.adapters import AdapterLoader, PackedFiles
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.scoring import GivenText, Scoring
from gemlora.engines.cpu.weights.packed import PackedModel, facts
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import EvaluationInvalid
from gemlora.kernels import LoraWeights
from gemlora.kernels.native import NativeKernels
from gemlora.registry.models import Base, Model
from gemlora.serving.adapters import reference
from gemlora.serving.prompt import Message, Prompt, Room, render
from gemlora.serving.tokenizer import Tokenizer
from gemlora.settings import Settings


@dataclass(frozen=True, slots=True)
class Exchange:
    """A conversation, as (role, text) each, and the answer to it that is read."""

    messages: tuple[tuple[str, str], ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of an answer: the sum of its tokens' log-probabilities in nats, and how many tokens it has."""

    log_probability: float
    tokens: int


class AnswerReader:
    """Finds how likely answers are behind the prompts that the server would make, for the base and for adapters."""

    def __init__(self, model: Model, tokenizer: Tokenizer, loader: AdapterLoader, scoring: Scoring) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._loader = loader
        self._scoring = scoring

    async def adapters(
        self, records: Records, account_id: str, names: Sequence[str | None]
    ) -> list[LoraWeights | None]:
        """The adapters of these names, None for the base. Raises what `Adapters.resolve` raises, and
        `EvaluationInvalid` if a server last served the data folder with another base.
        """
        last, base = await records.adapter_rows.find_base(self._model.name), self._model.base
        if last is not None and (last.digest, last.quantization) != (base.digest, base.quantization):
            raise EvaluationInvalid(
                f"The server last had {last.name} ({last.quantization}), and this command has {base.name} "
                f"({base.quantization}): give it the same weights and quantize"
            )
        return [
            None
            if name is None
            else self._loader.load(reference(await records.adapters.resolve(account_id, name, self._model)))
            for name in names
        ]

    def likelihoods(
        self,
        exchanges: Sequence[Exchange],
        adapters: Sequence[LoraWeights | None],
        progress: Callable[[int, int], None],
    ) -> list[list[Likelihood]]:
        """[exchange][adapter]. The end of the turn is not read. Raises `PromptTooLong`."""
        texts = [
            GivenText(prompt, answer, adapter)
            for prompt, answer in map(self._tokens, exchanges)
            for adapter in adapters
        ]
        found = [Likelihood(float(np.sum(one)), len(one)) for one in self._scoring.log_probabilities(texts, progress)]
        return [found[start : start + len(adapters)] for start in range(0, len(found), len(adapters))]

    def _tokens(self, exchange: Exchange) -> tuple[tuple[int, ...], tuple[int, ...]]:
        answer = self._tokenizer.encode(exchange.answer, control_tokens=False)
        prompt = Prompt(tuple(Message(role, text) for role, text in exchange.messages))
        return render(prompt, self._tokenizer, Room(self._model.base.context_window, len(answer))), tuple(answer)


def open_reader(settings: Settings, progress: Progress) -> AnswerReader:
    """Open the weights that the settings name. Raises `WeightsInvalid`, and `EvaluationInvalid` for the fake engine."""
    if settings.engine == "fake":
        raise EvaluationInvalid("The fake engine has no probabilities; --perplexity needs weights")
    model = PackedModel.open(packed_folder(settings, progress))
    window = min(settings.context_window or DEFAULT_CONTEXT_WINDOW, model.config.context)
    kernels = NativeKernels(settings.threads, settings.instruction_set)
    runner = Runner(model, kernels, context=window, kv_cache_bytes=settings.kv_cache_bytes)
    files = PackedFiles(settings.cache_dir / "adapters", settings.adapter_cache_bytes)
    return AnswerReader(
        model_of(settings, Base.of(facts(model, window))),
        Tokenizer.load(model.tokenizer_path),
        AdapterLoader(model, settings.adapter_dtype, files, kernels),
        Scoring(runner, window),
    )
