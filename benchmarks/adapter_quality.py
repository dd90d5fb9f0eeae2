"""What rounding an adapter to int8 adds to what rounding the base costs, for the adapters that gemlora ships.

python -m benchmarks.adapter_quality [--windows COUNT] [--length TOKENS] [--result FILE]

The yardstick is the unrounded base with the adapter in float32; the measure is the Kullback–Leibler divergence to it,
as in `benchmarks.quality` and on the same text.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.quality import Divergence, compare, starter, summary, windows

from benchmarks import results
from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters import AdapterLoader, PackedFiles
from gemlora.engines.cpu.adapters.layout import AdapterDtype
from gemlora.engines.cpu.runner import Runner, all_logits
from gemlora.engines.cpu.weights.packed import PackedModel, facts
from gemlora.kernels import LoraWeights
from gemlora.kernels.native import NativeKernels
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.registry.models import AdapterLimits, Base
from gemlora.registry.peft_config import read_config
from gemlora.registry.validation import check_adapter
from gemlora.settings import Settings
from gemlora.starter.shipped import shipped_adapters

RESULT = results.FOLDER / "adapter_quality.json"
BASES = ("none", "int8")
COMPARED: dict[str, tuple[str, AdapterDtype | None]] = {
    "without": ("none", None),
    "none, int8": ("none", "int8"),
    "none, bfloat16": ("none", "bfloat16"),
    "int8, float32": ("int8", "float32"),
    "int8, bfloat16": ("int8", "bfloat16"),
    "int8, int8": ("int8", "int8"),
}
"""How the base is stored and how the adapter is."""


def reference_of(folder: Path, model: PackedModel, place: Path) -> AdapterRef:
    """The adapter of a folder, checked as an upload is; its manifest is written to `place`."""
    weights = folder / WEIGHTS_FILE
    base = Base.of(facts(model, model.config.context))
    checked = check_adapter(read_config((folder / CONFIG_FILE).read_bytes()), weights, base, AdapterLimits())
    content = checked.manifest.to_json()
    manifest = place / f"{folder.name}.json"
    manifest.write_bytes(content)
    digest = hashlib.sha256(folder.name.encode()).hexdigest()
    return AdapterRef(digest, str(manifest), str(weights), hashlib.sha256(content).hexdigest())


def divergences(
    runners: dict[str, Runner], adapters: dict[tuple[str, AdapterDtype], LoraWeights], texts: list[list[int]]
) -> Iterator[tuple[str, Divergence]]:
    """Of each window and each of `COMPARED`."""

    def logits(
        base: str, dtype: AdapterDtype | None, tokens: list[int]
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        adapter = None if dtype is None else adapters[base, dtype]
        return np.concatenate([rows.copy() for rows in all_logits(runners[base], tokens, adapter)])

    for tokens in texts:
        expected = logits("none", "float32", tokens)
        for name, (base, dtype) in COMPARED.items():
            yield name, compare(expected, logits(base, dtype, tokens))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    settings = Settings()
    kernels = NativeKernels(settings.threads, settings.instruction_set)
    models = {quantize: starter(quantize, settings) for quantize in BASES}
    runners = {
        quantize: Runner(model, kernels, context=4096, kv_cache_bytes=1 << 28) for quantize, model in models.items()
    }
    texts = windows(models["int8"], arguments.windows, arguments.length)
    figures: results.Figures = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        files = PackedFiles(place / "packed", 1 << 30)
        for shipped in shipped_adapters():
            ref = reference_of(shipped.folder, models["int8"], place)
            dtypes: set[tuple[str, AdapterDtype]] = {("none", "float32")}
            dtypes |= {(base, dtype) for base, dtype in COMPARED.values() if dtype is not None}
            adapters = {
                (base, dtype): AdapterLoader(models[base], dtype, files, kernels).load(ref) for base, dtype in dtypes
            }
            found: dict[str, list[Divergence]] = {}
            for compared, divergence in divergences(runners, adapters, texts):
                found.setdefault(compared, []).append(divergence)
            for compared, several in found.items():
                figures |= {f"{shipped.folder.name}, {compared}: {key}": v for key, v in summary(several).items()}
            print(shipped.folder.name, {key: f"{summary(several)['mean_kl']:.6f}" for key, several in found.items()})
    results.write(arguments.result, figures, [], tokens=arguments.windows * arguments.length)


if __name__ == "__main__":
    main()
