"""The starter weights as the benchmarks use them: packed, with the default settings."""

from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.prepare import prepare
from gemlora.engines.cpu.weights.progress import silent
from gemlora.settings import Settings


def starter_model(quantize: str = "int8") -> PackedModel:
    """The packed starter model, converted if it is not in the cache."""
    return PackedModel.open(prepare("starter", None, None, quantize, Settings().cache_dir, silent))
