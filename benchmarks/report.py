"""Writes the figures of docs/performance.md, and its charts, from the result files.

python -m benchmarks.report

The page's text is written by hand; between `<!-- figures: NAME -->` and `<!-- end -->` stands what this script makes.
What was not measured has no row.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.judged import GOALS
from benchmarks.results import REPOSITORY

from benchmarks import results

PAGE = REPOSITORY / "docs" / "performance.md"
CHARTS = REPOSITORY / "docs" / "charts"
BLOCK = re.compile(r"(?P<begin><!-- figures: (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
RESULTS = (
    "offline", "compare", "compare_vllm", "adapter_mix", "adapters", "online", "overhead", "kernels", "quality",
    "large_model",
)  # fmt: skip
LIMITS = ("int8_gmacs_per_second", "read_gigabytes_per_second")
KERNELS = ("head int8", "qkv int8", "gate and up int8", "down int8", "attend uint8", "adapt rank")
MIXES = ("none", "same", "different")

Results = Mapping[str, Mapping[str, Any]]


def render(page: str, found: Results) -> str:
    """The page with every block made anew. KeyError for a block of an unknown name."""

    def block(match: re.Match[str]) -> str:
        lines = "\n".join(BLOCKS[match["name"]](found))
        return f"{match['begin']}{lines}\n{match['end']}"

    return BLOCK.sub(block, page)


def judged(found: Results) -> Iterator[str]:
    """Every figure that was measured, with its goal."""
    yield from _header("", "figure", "measured", "goal", "reached")
    for goal in GOALS:
        measured = goal.measured(found)
        if measured is not None:
            reached = "yes" if goal.reached(measured) else "no"
            yield f"| {goal.row} | {goal.what} | {measured:.3g} | {goal.bound} {goal.goal:g} | {reached} |"


def measurements(found: Results) -> Iterator[str]:
    """When, on what, and how busy the machine was: the limits that the probes saw."""
    yield from _header("result", "date", "rounds", "int8, GMAC/s", "memory, GB/s")
    for name in RESULTS:
        rounds = found.get(name, {}).get("rounds")
        if isinstance(rounds, Sequence):
            ends = [each["limits"][-1] for each in rounds]
            spans = [_span([end[key] for end in ends]) for key in LIMITS]
            file = f"[{name}.json](../benchmarks/results/{name}.json)"
            yield f"| {file} | {found[name]['date']} | {len(rounds)} | {spans[0]} | {spans[1]} |"


def offline(found: Results) -> Iterator[str]:
    """Prefill and decode, ours and llama.cpp's."""
    figures = found.get("offline", {}).get("figures", {})
    yield from _header("tokens/s", "gemlora", "llama.cpp", "ratio")
    for key in sorted({key.removeprefix("gemlora_") for key in figures if key.startswith("gemlora_")}, key=_by_number):
        values = [figures.get(name) for name in (f"gemlora_{key}", f"llama_cpp_{key}", f"{key}_over_llama_cpp")]
        what = "prefill of 512 tokens" if key == "prefill" else f"decoding, batch {key.removeprefix('decode_')}"
        yield f"| {what} | {_number(values[0])} | {_number(values[1])} | {_number(values[2])} |"


def clients(found: Results) -> Iterator[str]:
    """Output tokens a second, and the median first-token time, by clients and mix."""
    yield from _header("server", "clients", *(f"{mix} adapter{'s' * (mix == 'different')}" for mix in MIXES))
    for name, result in _compared(found):
        figures = result["figures"]
        for count in result["settings"]["clients"]:
            cells = [
                f"{_number(figures[f'{name}.{mix}_{count}_tokens_per_second'])}"
                f" ({_number(figures[f'{name}.{mix}_{count}_first_token_median'])} s)"
                for mix in MIXES
            ]
            yield f"| {name} | {count} | {' | '.join(cells)} |"


def servers(found: Results) -> Iterator[str]:
    """Starts and memory, and what exactly was measured."""
    yield from _header("server", "cold process → first token", "peak memory, GiB", "version")
    for name, result in _compared(found):
        figures, version = result["figures"], result["settings"]["versions"][name]
        memory = figures[f"{name}.peak_pss_bytes"] / 2**30
        yield f"| {name} | {figures[f'{name}.cold_start_seconds']:.2f} s | {memory:.2f} | {version} |"


def _compared(found: Results) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every server with the result that it is in: ours are in both, their rows are of the larger comparison."""
    shown: set[str] = set()
    for result in (found.get("compare", {}), found.get("compare_vllm", {})):
        for name in result.get("settings", {}).get("versions", {}):
            if name not in shown:
                shown.add(name)
                yield name, result


def mixes(found: Results) -> Iterator[str]:
    """Tokens a second by mix of adapters."""
    figures = found.get("adapter_mix", {}).get("figures", {})
    yield from _header("adapters", "tokens/s")
    for name, value in figures.items():
        if not name.startswith("r") and not name.endswith("_decode"):
            yield f"| {name.replace('_', ' ')} | {_number(value)} |"


def online(found: Results) -> Iterator[str]:
    """What requests meet at each rate of arrivals."""
    result = found.get("online", {})
    figures = result.get("figures", {})
    yield from _header("requests/s", "tokens/s", "first token, median", "first token, p99", "between tokens, median")
    for rate in result.get("settings", {}).get("rates", ()):
        names = ("tokens_per_second", "first_token_median", "first_token_p99", "between_tokens_median")
        values = [figures.get(f"rate_{rate:g}_{name}") for name in names]
        if None not in values:
            times = " | ".join(f"{value * 1000:.0f} ms" for value in values[1:])
            yield f"| {rate:g} | {_number(values[0])} | {times} |"


def overhead(found: Results) -> Iterator[str]:
    """What a decoding step takes beside its kernels."""
    figures = found.get("overhead", {}).get("figures", {})
    yield from _header("decoding", "step", "beside its kernels", "share")
    for name in (key.removesuffix(".overhead_share") for key in figures if key.endswith(".overhead_share")):
        step, beside, share = (
            figures[f"{name}.{each}"] for each in ("step_seconds", "overhead_seconds", "overhead_share")
        )
        what = name.replace("_", " ").replace(" different", ", different")
        yield f"| {what} | {step * 1e3:.1f} ms | {beside * 1e3:.2f} ms | {share:.1%} |"


def kernels(found: Results) -> Iterator[str]:
    """How close kernels of the starter model come to what the machine allows."""
    figures = found.get("kernels", {}).get("figures", {})
    yield from _header("kernel", "time", "of its roofline")
    for name in (key.removesuffix(".share_of_roofline") for key in figures if key.endswith(".share_of_roofline")):
        if name.startswith(KERNELS):
            seconds, share = figures[f"{name}.seconds"], figures[f"{name}.share_of_roofline"]
            yield f"| {name} | {seconds * 1e3:.3g} ms | {share:.0%} |"


def large(found: Results) -> Iterator[str]:
    """Decoding of the large model, ours and llama.cpp's."""
    result = found.get("large_model", {})
    figures = result.get("figures", {})
    yield from _header("weights", "GB", "batch", "gemlora, tokens/s", "llama.cpp, tokens/s", "ratio")
    for name, size in result.get("settings", {}).get("weight_bytes", {}).items():
        for batch in (1, 16):
            key = f"decode_{batch}"
            values = [
                figures.get(f"{name}.{each}")
                for each in (f"gemlora_{key}", f"llama_cpp_{key}", f"{key}_over_llama_cpp")
            ]
            yield f"| {name} | {size / 1e9:.1f} | {batch} | {' | '.join(map(_number, values))} |"


BLOCKS: Mapping[str, Callable[[Results], Iterator[str]]] = {
    "judged": judged,
    "measurements": measurements,
    "offline": offline,
    "clients": clients,
    "servers": servers,
    "mixes": mixes,
    "online": online,
    "overhead": overhead,
    "kernels": kernels,
    "large": large,
}


def _header(*names: str) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _span(values: Sequence[float]) -> str:
    if not any(values):  # not measured
        return "–"
    return f"{min(values):.0f}–{max(values):.0f}"


def _by_number(key: str) -> int:
    return int(key.rpartition("_")[2]) if key[-1].isdigit() else 0


def read(folder: Path) -> Results:
    """The result files that there are."""
    return {name: results.read(path) for name in RESULTS if (path := folder / f"{name}.json").is_file()}


def main() -> None:
    """Write page and charts."""
    from benchmarks import charts

    found = read(results.FOLDER)
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    charts.draw(found, CHARTS)


if __name__ == "__main__":
    main()
