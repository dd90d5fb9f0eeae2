"""A request's logits and tokens depend neither on its company nor on how or by what they are computed, bit for bit."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import cycle, islice, product
from math import inf
from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from llguidance import LLMatcher
from msgspec.structs import replace
from tests.lora_pairs import embedding_pair, linear_pair
from tests.stepping import LateExecutor, ListMailbox, Prophet, constraining

from gemlora.engines.contract import AdapterRef, Constraint, GenerateRequest, Sampling
from gemlora.engines.cpu.adapters import AdapterPool
from gemlora.engines.cpu.batch import Batch
from gemlora.engines.cpu.blocks import BlockPool
from gemlora.engines.cpu.config import GemmaConfig
from gemlora.engines.cpu.engine import StepLoop
from gemlora.engines.cpu.frames import Cancel, Delivered, ProbeAdapter, Probed, Submit, UnloadAdapter
from gemlora.engines.cpu.interfaces import Output
from gemlora.engines.cpu.interfaces import Speculation as Speculating
from gemlora.engines.cpu.pace import Pace
from gemlora.engines.cpu.prefix_cache import PrefixCache
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.sampler import Sampler
from gemlora.engines.cpu.scheduler import Scheduler
from gemlora.engines.cpu.speculation import Speculation
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.kernels import Kernels, LoraWeights
from gemlora.kernels.native import NativeKernels, instruction_sets

REQUESTS = 200
COMPANIES = 10
VISITORS = 30
"""Requests of each company that leave before they end."""

LONGEST_PROMPT = 80
MOST_TOKENS = 24
CONTEXT = LONGEST_PROMPT + MOST_TOKENS
ADAPTERS = ("one", "two", "three", "four")
BYTES = [bytes([byte]) for byte in range(256)]
"""The text of the first tokens, for constrained answers."""
PROBE_PROMPT = (2, 30, 70, 110, 150, 190)

Model = tuple[PackedModel, list[GenerateRequest]]
Outputs = dict[str, tuple[list[bytes], list[int]]]
Guest = Submit | ProbeAdapter | UnloadAdapter | Cancel


GRAMMARS = [
    LLMatcher.grammar_from_json_schema({"type": "array", "items": {"type": ["string", "integer", "null"]}}),
    LLMatcher.grammar_from_json_schema({"type": "array", "items": {"enum": ["alpha", "beta", 7]}}),
    LLMatcher.grammar_from_lark('start: "=" /[a-z ]{0,60}/ ("!" | "?")'),
]
"""Their shortest texts have at most four tokens; the last one can be cut short, and the forced parts are guessed."""

PROBES = [ProbeAdapter(f"probe {name}", AdapterRef(name, "", "", "")) for name in ADAPTERS]
UNLOADS = 10


class RandomAdapters:
    """Adapters that change a random half of all matrices with random ranks, some with DoRA; the same for a digest."""

    def __init__(self, config: GemmaConfig) -> None:
        self._config = config

    def size(self, ref: AdapterRef) -> int:
        return self.pack(ref).size

    def open(self, ref: AdapterRef) -> LoraWeights | None:
        return None

    def pack(self, ref: AdapterRef) -> LoraWeights:
        random = np.random.default_rng(list(ref.digest.encode()))
        dtype = random.choice(np.array([np.float32, np.float16, ml_dtypes.bfloat16]))
        vocabulary, hidden = self._config.vocabulary, self._config.hidden

        def factors(outputs: int, inputs: int, fan_in: int) -> tuple[Any, ...]:
            rank = int(random.integers(1, 10))
            return (
                (random.standard_normal((rank, inputs)) * fan_in**-0.5).astype(dtype),
                (random.standard_normal((rank, outputs)) * 0.3).astype(dtype),
                float(random.uniform(0.5, 2)),
                random.uniform(0.7, 1.3, outputs).astype(np.float32) if random.random() < 0.5 else None,
            )

        pairs = {
            (layer, name): linear_pair(*factors(outputs, inputs, inputs))
            for layer in range(len(self._config.layers))
            for name, (outputs, inputs) in self._config.modules.items()
            if random.random() < 0.5
        }
        a, *others = factors(hidden, vocabulary, hidden)
        embedding = embedding_pair(np.ascontiguousarray(a.T), *others)
        head = linear_pair(*factors(vocabulary, hidden, hidden))
        return LoraWeights(
            ref.digest,
            pairs,
            embedding if random.random() < 0.5 else None,
            head if random.random() < 0.5 else None,
        )

    def discard(self, digest: str) -> None:
        pass


def random_requests(random: Random, count: int, vocabulary: int) -> list[GenerateRequest]:
    """Half of them greedy, all with random parameters, their bounds among them; many share a beginning."""
    beginnings = [[random.randrange(vocabulary) for _ in range(40)] for _ in range(3)]
    constraints = [random.choice([None, None, None, *map(Constraint, GRAMMARS)]) for _ in range(count)]
    return [
        GenerateRequest(
            id=str(number),
            prompt=(
                *random.choice([[], *beginnings]),
                *(random.randrange(vocabulary) for _ in range(random.randint(1, LONGEST_PROMPT - 40))),
            ),
            max_tokens=random.randint(4, MOST_TOKENS),
            sampling=Sampling(
                seed=random.randint(0, 9_999_999_999),
                temperature=random.choice([0, 0, 0, 0.1, 0.6, 1, 5]),
                top_k=random.choice([None, 1, 2, 10, 50]),
                top_p=random.choice([0, 0.3, 0.9, 1, 2]),
                repetition_penalty=random.choice([0, 1, 1, 1.1, 2]),
                frequency_penalty=random.choice([0, 0, -2, 0.5, 2]),
                presence_penalty=random.choice([0, 0, -2, 0.5, 2]),
            ),
            # A text that a grammar demands cannot have its own end in it.
            stop_tokens=(random.randrange(len(BYTES) if constraint else 0, vocabulary),),
            adapter=random.choice([None, *(AdapterRef(name, "", "", "") for name in ADAPTERS)]),
            cache_scope=random.choice([b"", b"another account"]),
            constraint=constraint,
        )
        for number, constraint in enumerate(constraints)
    ]


class RecordingRunner:
    """Keeps a hash of the logits behind every token, which shows what tokens hide.

    Those behind a wrong guess are replaced when the right token has been computed in its place.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._hashes: dict[str, dict[int, bytes]] = defaultdict(dict)
        self._generated: dict[str, int] = {}

    def forward(self, batch: Batch, between: Callable[[], None] | None = None) -> Output:
        output = self.runner.forward(batch, between)
        owners = [batch.chunks[number].sequence for number in batch.sequence_of_row[batch.logit_rows]]
        positions = batch.positions[batch.logit_rows].tolist()
        for sequence, position, row in zip(owners, positions, output.logits(), strict=True):
            index = position + 1 - len(sequence.request.prompt)
            self._generated[sequence.request.id] = len(sequence.request.generated)
            self._hashes[sequence.request.id][index] = blake2b(row.tobytes(), digest_size=16).digest()
        return output

    def hashes(self, id: str, tokens: int) -> list[bytes]:
        """Those of so many new tokens and, if one was computed, of the token that stopped them."""
        end = self._generated.get(id, 0) + tokens
        return [self._hashes[id][index] for index in sorted(self._hashes[id]) if index <= end]


class Stage:
    """One model with one set of kernels, on which requests are computed in different companies."""

    def __init__(self, model: PackedModel, kernels: Kernels) -> None:
        self._config = model.config
        self._kernels = kernels
        self._runner = Runner(model, kernels, context=CONTEXT, kv_cache_bytes=8 << 20)
        self._loader = RandomAdapters(self._config)
        self._largest = max(self._loader.size(AdapterRef(name, "", "", "")) for name in ADAPTERS)
        self.differences: dict[str, set[float]] = defaultdict(set)

    def run(
        self,
        arrivals: Iterator[list[Guest]],
        *,
        blocks: int,
        max_sequences: int,
        step_tokens: int,
        step_seconds: float = inf,
        rooms: int,
        preemption: Random | None = None,
        speculation: Speculating | None = None,
        caching: bool = True,
        most_idle: int = 0,
        commands: int | None = None,
    ) -> tuple[Outputs, Scheduler]:
        """Hashes and tokens of each request.

        `arrivals` come before each step, `rooms` counts resident adapters, `preemption` takes blocks now and then;
        `caching` and `most_idle` are the prefix cache's. With more than `commands` before a step, the others come while
        it is computed.
        """
        assert blocks <= self._runner.blocks
        mailbox, executor, recorder = ListMailbox(commands), LateExecutor(), RecordingRunner(self._runner)
        cache = PrefixCache(BlockPool(blocks), "", most_idle=most_idle, enabled=caching)
        scheduler = Scheduler(cache, max_sequences, Pace(step_tokens, step_seconds))
        loop = StepLoop(
            mailbox, scheduler, recorder, Sampler(self._kernels),
            AdapterPool(self._loader, rooms * self._largest, executor, executor, lambda: None),
            speculation or Speculation(0), constraining(BYTES, executor, self._config.vocabulary),
            context_window=CONTEXT, vocabulary=self._config.vocabulary, probe_prompt=PROBE_PROMPT,
        )  # fmt: skip
        for coming in arrivals:
            mailbox.commands += coming
            _step(loop, executor, scheduler, preemption)
        while mailbox.commands or scheduler.running or scheduler.waiting:
            _step(loop, executor, scheduler, preemption)
        assert scheduler.free_blocks == blocks
        tokens: dict[str, list[int]] = defaultdict(list)
        for event in mailbox.events:
            if isinstance(event, Delivered):
                tokens[event.id] += event.tokens
            elif isinstance(event, Probed):
                self.differences[event.id].add(event.difference)
        return {id: (recorder.hashes(id, len(tokens[id])), tokens[id]) for id in tokens}, scheduler

    def alone(self, requests: Sequence[GenerateRequest]) -> Outputs:
        """Each request by itself, its prompt in one chunk."""
        outputs: Outputs = {}
        for request in requests:
            outputs |= self._alone(Submit(request))
        for probe in PROBES:
            self._alone(probe)
        return outputs

    def _alone(self, guest: Guest) -> Outputs:
        return self.run(iter([[guest]]), blocks=8, max_sequences=1, step_tokens=CONTEXT, rooms=4, caching=False)[0]

    def company(
        self, requests: Sequence[GenerateRequest], random: Random, speculation: Speculating
    ) -> tuple[Outputs, Scheduler]:
        """All requests and probes in random order with random arrivals and sizes; visitors that come and go, and
        adapters that are unloaded."""
        visitors = random_requests(random, VISITORS, self._config.vocabulary)
        guests: list[Guest] = [Submit(request) for request in requests]
        guests += [Submit(replace(v, id=f"visitor {v.id}", max_tokens=100, stop_tokens=())) for v in visitors]
        guests += PROBES
        guests += [UnloadAdapter(f"unload {number}", random.choice(ADAPTERS)) for number in range(UNLOADS)]
        random.shuffle(guests)
        return self.run(
            _arrivals(guests, random),
            blocks=(blocks := random.choice([8, 12, 40])),
            max_sequences=random.randint(4, 16),
            step_tokens=random.choice([9, 16, 33, 64, 200]),
            step_seconds=random.choice([0.002, 0.02, inf]),
            rooms=random.randint(1, 4),
            preemption=random,
            speculation=speculation,
            most_idle=random.choice([blocks // 4, blocks]),
            commands=random.choice([None, 1, 2]),
        )


def _step(loop: StepLoop, executor: LateExecutor, scheduler: Scheduler, preemption: Random | None) -> None:
    executor.run()
    loop.step()
    if preemption is not None and scheduler.running and preemption.random() < 0.1:
        scheduler.preempt(preemption.choice(scheduler.running))


def _arrivals(guests: list[Guest], random: Random) -> Iterator[list[Guest]]:
    """Some guests at a time; a visitor leaves a few steps after it came."""
    leaving: list[tuple[int, str]] = []
    step = 0
    while guests or leaving:
        step += 1
        count = random.choice([0, 0, 0, 1, 1, 2, 6])
        coming, guests = guests[:count], guests[count:]
        visitors = [g.request.id for g in coming if isinstance(g, Submit) and g.request.id.startswith("visitor")]
        leaving += [(step + random.randint(1, 25), id) for id in visitors]
        gone = [Cancel(id) for when, id in leaving if when <= step]
        leaving = [entry for entry in leaving if entry[0] > step]
        yield [*coming, *gone]


def _equal(output: tuple[list[bytes], list[int]], expected: tuple[list[bytes], list[int]]) -> bool:
    """Behind the place where a grammar closed the text, guesses may have left logits that came to nothing."""
    return output[1] == expected[1] and output[0][: len(expected[0])] == expected[0]


def speculations(packed: PackedModel, outputs: Outputs, random: Random) -> list[Speculating]:
    """None, the real one, and guesses that are mostly right."""
    prophet = Prophet(0.8, random, packed.config.vocabulary)
    prophet.truths = {id: (*tokens, *range(5)) for id, (_, tokens) in outputs.items()}
    return [Speculation(0), Speculation(8), prophet]


CASES = [("gemma3", "int8", REQUESTS), ("gemma1", "int4", 60), ("gemma2", "none", 60)]


@pytest.fixture(scope="module", params=CASES, ids=["int8", "int4", "none"])
def model(request: pytest.FixtureRequest, checkpoint: Callable[..., Any]) -> Model:
    architecture, quantize, count = request.param
    packed = checkpoint(architecture, quantize=quantize).weights
    return packed, random_requests(Random(1), count, packed.config.vocabulary)


def test_logits_and_tokens_behind_cached_blocks_are_those_of_a_cold_start(model: Model) -> None:
    packed, requests = model
    for request in requests[:12]:
        prompt = [random.randrange(packed.config.vocabulary) for random in [Random(request.id)] for _ in range(60)]
        first = replace(request, id="first", prompt=tuple(prompt), stop_tokens=(), max_tokens=24, constraint=None)
        stage = Stage(packed, NativeKernels(1))
        hashes, tokens = stage.alone([first])["first"]
        turn = replace(first, id="turn", prompt=(*prompt, *tokens, *prompt[:8]), max_tokens=10)
        resumed = replace(first, id="resumed", generated=tuple(tokens[:15]))
        arrivals = iter(
            [[Submit(first)], *[[]] * 40, [Submit(turn), Submit(replace(first, id="again"))], [Submit(resumed)]]
        )
        outputs, scheduler = stage.run(
            arrivals, blocks=24, max_sequences=4, step_tokens=21, rooms=4, preemption=Random(1), most_idle=24
        )
        assert outputs["turn"] == Stage(packed, NativeKernels(1)).alone([turn])["turn"]
        assert outputs["first"] == outputs["again"] == (hashes, tokens)
        assert outputs["resumed"] == (hashes[15:], tokens[15:])
        assert scheduler.cached_tokens >= 2 * (2 + 1 + 2)


def test_logits_and_tokens_are_the_same_alone_and_in_every_company(model: Model) -> None:
    packed, requests = model
    variants = list(product([1, 2], instruction_sets()))
    reference = Stage(packed, NativeKernels(1))
    alone = reference.alone(requests)
    assert all(len(reference.differences[probe.id]) == 1 for probe in PROBES)
    assert len(alone) == len(requests)
    assert len({tuple(tokens) for _, tokens in alone.values()}) > len(requests) * 0.9
    preempted = reused = 0
    for seed, (threads, instruction_set) in enumerate(islice(cycle(variants), COMPANIES)):
        stage = Stage(packed, NativeKernels(threads, instruction_set))
        random = Random(seed)
        outputs, scheduler = stage.company(requests, random, speculations(packed, alone, random)[seed % 3])
        different = [id for id, result in alone.items() if not _equal(outputs[id], result)]
        assert not different, (seed, threads, instruction_set)
        assert stage.differences == reference.differences
        preempted += scheduler.preemptions
        reused += scheduler.cached_tokens
    assert preempted > 10 * COMPANIES
    assert reused > len(requests) * COMPANIES
