"""gemlora and its peers on the same machine in one run: each is started in turn, asked the same, and ended.

python -m benchmarks.compare [--rounds COUNT] [--clients COUNT …] [--seconds LEAST] [--peers NAME …] [--result FILE]

Every round begins with a probe of the machine and starts every server anew, in an order that rotates. A load is so many
clients that wait for their answers; prompts are 128 tokens that no two requests share, answers 64 tokens, greedy. Loads
are repeated until they took ten seconds together, as one moment of a shared machine says little.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from benchmarks.client import Answer
from benchmarks.load import summary
from benchmarks.machine import Machine
from benchmarks.memory import watched
from benchmarks.peers import llama_cpp
from benchmarks.peers.gemlora import Gemlora
from benchmarks.peers.llama_cpp import LlamaCpp
from benchmarks.peers.peer import Clients, Peer, Question, Served
from benchmarks.peers.transformers_peft import TransformersPeft
from benchmarks.peers.vllm import Vllm
from benchmarks.peft_adapters import Shape
from benchmarks.prompts import Prompts
from benchmarks.results import Figures
from benchmarks.starter import starter_model

from benchmarks import results
from gemlora.serving.tokenizer import Tokenizer

RESULT = results.FOLDER / "compare.json"
RANK = 8
PROMPT, TOKENS = 128, 64
MIXES: dict[str, Callable[[int], int | None]] = {
    "none": lambda client: None,  # noqa: ARG005
    "same": lambda client: 0,  # noqa: ARG005
    "different": lambda client: client,
}
"""Each client's adapter."""
MEMORY_MIX = "different"
UNGUESSED = "without guesses"
"""The variant of our server that shows what guessing ahead contributes; the tokens are the same."""


@dataclass(frozen=True)
class Plan:
    """What every server is asked in a round."""

    clients: Sequence[int]
    turns: int
    """Questions of each client."""
    seconds: float = 0.0
    """How long each kind of load is measured at least; once in any case."""

    @property
    def most(self) -> int:
        """The most clients at once."""
        return max(self.clients)


def questions(prompts: Prompts, clients: int, turns: int, mix: str) -> Clients:
    """What the clients ask; every prompt is a new one."""
    return [
        [Question(prompts.draw(PROMPT), TOKENS, MIXES[mix](client)) for _ in range(turns)] for client in range(clients)
    ]


def measure(peer: Peer, plan: Plan, prompts: Prompts) -> Figures:
    """One round of one server: its start, every load, and its memory under the largest one."""
    begin = time.perf_counter()
    with peer.serve() as served:
        first = served.ask(Question(prompts.draw(PROMPT), 1, None))
        figures = {"cold_start_seconds": first.first - begin}
        served.answer(questions(prompts, 2, 1, "different"))
        for clients in plan.clients:
            for mix in MIXES:
                with watched(served.pid) as peak:
                    found = _repeated(served, plan, prompts, clients, mix)
                figures |= {f"{mix}_{clients}_{key}": value for key, value in found.items()}
                if clients == plan.most and mix == MEMORY_MIX:
                    figures["peak_pss_bytes"] = peak.bytes
    return figures


def _repeated(served: Served, plan: Plan, prompts: Prompts, clients: int, mix: str) -> Figures:
    """One kind of load as often as `plan` wants it: averages of its figures, and the rate over all of it."""
    loads: list[Figures] = []
    while not loads or sum(each["seconds"] for each in loads) < plan.seconds:
        loads.append(_figures(served.answer(questions(prompts, clients, plan.turns, mix))))
    means = {key: statistics.fmean(each[key] for each in loads) for key in loads[0]}
    return means | {"tokens_per_second": means["output_tokens"] / means["seconds"], "loads": len(loads)}


def _figures(answers: Sequence[Answer]) -> Figures:
    lengths = {answer.prompt_tokens for answer in answers}
    if lengths != {PROMPT}:
        raise ValueError(f"prompts of {PROMPT} tokens were asked for, the server counted {sorted(lengths)}")
    figures: Figures = msgspec.to_builtins(summary(answers))
    return figures


def compare(peers: Sequence[Peer], plan: Plan, rounds: int, prompts: Prompts, machine: Machine) -> list[results.Round]:
    """The rounds, each with the machine's limits before it."""
    measured: list[results.Round] = []
    for number in range(rounds):
        limits = [asdict(each) for each in machine.limits()]
        start = number % len(peers)
        figures = {}
        for peer in [*peers[start:], *peers[:start]]:
            figures[peer.name] = measure(peer, plan, prompts)
            rate = figures[peer.name][f"different_{plan.most}_tokens_per_second"]
            print(f"round {number + 1}/{rounds}, {peer.name}: {rate:.1f} tokens/s, {plan.most} adapters", flush=True)
        measured.append({"limits": limits, "figures": figures})
    return measured


def figures_of(rounds: Sequence[results.Round], names: Sequence[str]) -> Figures:
    """Medians as `NAME.FIGURE`, and our figure ÷ each peer's of the same round, median, as `FIGURE_over_NAME`."""
    figures: Figures = {}
    for name in names:
        medians = results.medians(each["figures"][name] for each in rounds)
        figures |= {f"{name}.{key}": value for key, value in medians.items()}
        if name == Gemlora.name:
            continue
        for key in medians:
            ratios = [
                each["figures"][Gemlora.name][key] / each["figures"][name][key]
                for each in rounds
                if each["figures"][name][key]
            ]
            if ratios:
                figures[f"{key}_over_{name}"] = statistics.median(ratios)
    return figures


def main() -> None:
    """Compare and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--turns", type=int, default=1, help="questions of each client")
    parser.add_argument("--seconds", type=float, default=10, help="how long each kind of load is measured at least")
    names = [LlamaCpp.name, TransformersPeft.name, Vllm.name]
    parser.add_argument("--peers", nargs="*", choices=names, default=[LlamaCpp.name, TransformersPeft.name])
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    plan = Plan(sorted(arguments.clients), arguments.turns, arguments.seconds)
    model = starter_model()
    shape = Shape(len(model.config.layers), model.config.modules)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = llama_cpp.starter_file(folder)
        make: dict[str, Callable[[Path], Peer]] = {
            LlamaCpp.name: lambda place: LlamaCpp(place, file, shape, model.family, plan.most, RANK, plan.most),
            TransformersPeft.name: lambda place: TransformersPeft(place, file, shape, plan.most, RANK),
            Vllm.name: lambda place: Vllm(place, file, shape, plan.most, RANK),
        }
        peers: list[Peer] = [
            Gemlora(folder / "gemlora", plan.most, RANK),
            Gemlora(folder / "unguessed", plan.most, RANK, variant=UNGUESSED, draft_tokens=0),
        ]
        peers += [make[peer](folder / f"peer-{number}") for number, peer in enumerate(arguments.peers)]
        prompts = Prompts(Tokenizer.load(model.tokenizer_path), seed=int(time.time()))
        rounds = compare(peers, plan, arguments.rounds, prompts, Machine(folder))
        versions = {peer.name: peer.version for peer in peers}
    results.write(
        arguments.result, figures_of(rounds, list(versions)), rounds, prompt_tokens=PROMPT, output_tokens=TOKENS,
        adapters=plan.most, rank=RANK, clients=plan.clients, turns=plan.turns, seconds=plan.seconds, versions=versions,
    )  # fmt: skip


if __name__ == "__main__":
    main()
