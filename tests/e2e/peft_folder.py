"""LoRA adapters for the starter weights, as PEFT saves them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LAYERS = 18
HIDDEN = 640
RANK = 4
OUTPUTS = {"q_proj": 1024, "v_proj": 256}


def write_peft_folder(folder: Path, seed: int) -> Path:
    """Write random weights strong enough to change what a greedy request answers."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for module, outputs in OUTPUTS.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{prefix}.lora_A.weight"] = generator.normal(0, HIDDEN**-0.5, (RANK, HIDDEN)).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = generator.normal(0, 0.5, (outputs, RANK)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    configuration = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "google/gemma-3-270m",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(OUTPUTS),
    }
    (folder / "adapter_config.json").write_text(json.dumps(configuration))
    return folder
