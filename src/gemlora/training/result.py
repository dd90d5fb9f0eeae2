"""What a finished training leaves in its folder: the adapter as PEFT saves it, its model card and its curves."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import save_file

from gemlora import __version__
from gemlora.engines.cpu.weights.folder import sync
from gemlora.errors import StorageFailed
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.training.checkpoint import Tensors
from gemlora.training.curves import draw_curves
from gemlora.training.history import History
from gemlora.training.plan import Plan

CARD_FILE, CURVES_FILE, HISTORY_FILE = "README.md", "curves.png", "training.json"
STORED = torch.bfloat16
"""Beside a quantised base adapters are served in this precision."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the card tells beside the plan."""

    name: str
    description: str
    base: str
    base_digest: str
    data: str
    data_digest: str
    learnt: int
    held_out: int
    left_out: tuple[int, ...]
    """Lines of examples that were too long."""


def write_result(
    folder: Path, weights: Tensors, config: LoraConfig, history: History, plan: Plan, facts: Facts
) -> None:
    """Write all files; the adapter's configuration last, so that an adapter is complete if it has one."""
    try:
        tensors = {name: tensor.to("cpu", STORED).contiguous() for name, tensor in weights.items()}
        save_file(tensors, folder / WEIGHTS_FILE, {"format": "pt"})
        draw_curves(history, folder / CURVES_FILE)
        document = {"plan": plan.to_json(), "history": history.to_json()}
        (folder / HISTORY_FILE).write_text(json.dumps(document, indent=1) + "\n")
        (folder / CARD_FILE).write_text(_card(history, plan, facts))
        for name in (WEIGHTS_FILE, CURVES_FILE, HISTORY_FILE, CARD_FILE):
            sync(folder / name)
        _write_config(folder, config)
        sync(folder)
    except OSError as error:
        raise StorageFailed(f"{folder}: the adapter cannot be written: {error.strerror}") from error


def _write_config(folder: Path, config: LoraConfig) -> None:
    document = {key: value for key, value in config.to_dict().items() if value is not None}
    document |= {"inference_mode": True, "target_modules": sorted(config.target_modules)}
    partial = folder / f"{CONFIG_FILE}.partial"
    partial.write_text(json.dumps(document, indent=2, sort_keys=True, default=str) + "\n")
    sync(partial)
    partial.replace(folder / CONFIG_FILE)


def _card(history: History, plan: Plan, facts: Facts) -> str:
    """The model card, in the form that model hubs read."""
    rows = {
        "base": f"{facts.base} (`{facts.base_digest[:16]}`)",
        "data": f"{facts.data}, {facts.learnt} examples learnt, {facts.held_out} held out",
        "SHA-256 of the data": f"`{facts.data_digest}`",
        **{key.replace("_", " "): _shown(value) for key, value in plan.to_json().items()},
        "steps": str(len(history.steps)),
        "time": f"{history.seconds / 60:.1f} minutes",
        "made with": f"gemlora {__version__}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"peft {peft.__version__}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    skipped = ""
    if facts.left_out:
        skipped = f"\nLonger than {plan.max_tokens} tokens and left out: lines {_shown(list(facts.left_out))}.\n"
    return f"""---
library_name: peft
base_model: {json.dumps(facts.base)}
tags: [lora, gemlora]
---
# {facts.name}

{facts.description or f"A LoRA adapter for {facts.base}."}

Trained with `gemlora train`. {_gain(history)}

![Losses](curves.png)

| | |
|---|---|
{table}
{skipped}"""


def _gain(history: History) -> str:
    base, best = history.base, history.best
    if base is None or best is None:
        return "No examples were held out, so nothing is known of what it gained."
    return (
        f"On the held-out examples the loss per token fell from {base.loss:.3f} to {best.loss:.3f} nats (perplexity "
        f"{math.exp(base.loss):.1f} → {math.exp(best.loss):.1f}), after {best.step} steps."
    )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
