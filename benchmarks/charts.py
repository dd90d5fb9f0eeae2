"""The charts of docs/performance.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

SIZE = (6.4, 3.6)


def draw(found: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write the charts whose results are there."""
    folder.mkdir(exist_ok=True)
    if "offline" in found:
        _save(folder / "decode.png", _decode, found["offline"])
    if "compare" in found:
        _save(folder / "clients.png", _clients, found["compare"])


def _save(path: Path, plot: Any, result: Mapping[str, Any]) -> None:
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    plot(axes, result)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _decode(axes: Axes, result: Mapping[str, Any]) -> None:
    """Decoding by batch, ours and llama.cpp's."""
    figures = result["figures"]
    for prefix, label in (("gemlora", "gemlora"), ("llama_cpp", "llama.cpp")):
        points = sorted(
            (int(key.rpartition("_")[2]), value)
            for key, value in figures.items()
            if key.startswith(f"{prefix}_decode_")
        )
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xlabel="sequences in parallel", ylabel="output tokens/s", title="Decoding, no adapter")


def _clients(axes: Axes, result: Mapping[str, Any]) -> None:
    """Every client with another adapter, by clients."""
    counts = result["settings"]["clients"]
    for name in result["settings"]["versions"]:
        rates = [result["figures"][f"{name}.different_{count}_tokens_per_second"] for count in counts]
        axes.plot(counts, rates, marker="o", label=name)
    axes.set(xlabel="clients, each with another adapter", ylabel="output tokens/s", title="Many adapters at once")
