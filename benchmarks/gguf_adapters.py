"""The same adapters as `peft_adapters` writes, as llama.cpp reads them."""

from pathlib import Path

import numpy as np
from benchmarks.peft_adapters import Shape, pairs
from gguf import GGUFType, GGUFWriter, Keys

from gemlora.engines.cpu.weights.tensor_names import gguf_name


def write_gguf(path: Path, shape: Shape, rank: int, seed: int, architecture: str) -> Path:
    """Write one adapter in float16, which holds its weights exactly; `architecture` is the base's, as `gemma3`."""
    writer = GGUFWriter(path, architecture)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, 2.0 * rank)
    for pair in pairs(shape, rank, seed):
        name = gguf_name(f"layers.{pair.layer}.{pair.module}")
        writer.add_tensor(f"{name}.lora_a", pair.a.astype(np.float16))
        writer.add_tensor(f"{name}.lora_b", pair.b.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
