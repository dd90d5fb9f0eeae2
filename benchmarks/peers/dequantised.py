"""The starter GGUF in bfloat16, for transformers and what reads its files.

Loaded packed, as transformers does by default, it would compute in float32 only and could not be saved.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def load_model(file: Path) -> Any:
    """Its causal language model."""
    config = GgufConfig(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(**_source(file), dtype=torch.bfloat16, quantization_config=config)


def load_tokenizer(file: Path, **options: Any) -> Any:
    """Its tokenizer; `options` are transformers'."""
    return AutoTokenizer.from_pretrained(**_source(file), **options)


def _source(file: Path) -> dict[str, str]:
    return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
