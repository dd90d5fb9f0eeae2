"""The process behind `transformers_peft`: batches of questions as JSON lines in, their answers out.

python -m benchmarks.peers.peft_batches GGUF [ADAPTER FOLDER …]
"""

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from benchmarks.client import Answer
from benchmarks.peers.dequantised import load_model, load_tokenizer
from benchmarks.peers.peer import Question
from peft import PeftModel
from transformers import StoppingCriteria

BASE = "__base__"
"""PEFT's name for no adapter."""


class FirstToken(StoppingCriteria):
    """Notes when the first token was there; stops nothing."""

    def __init__(self) -> None:
        self.time: float | None = None

    def __call__(self, input_ids: torch.LongTensor, *_: Any, **__: Any) -> torch.BoolTensor:
        if self.time is None:
            self.time = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)  # type: ignore[return-value]


class Generator:
    """The model and its adapters."""

    def __init__(self, model: Path, adapters: list[str]) -> None:
        self._tokenizer = load_tokenizer(model, padding_side="left")
        self._model = load_model(model)
        self._mixes = bool(adapters)
        for number, folder in enumerate(adapters):
            if number == 0:
                self._model = PeftModel.from_pretrained(self._model, folder, adapter_name="0")
            else:
                self._model.load_adapter(folder, adapter_name=str(number))
        self._model.eval()

    @torch.inference_mode()
    def generate(self, batch: list[Question]) -> list[Answer]:
        """All questions must want equally many tokens."""
        begin, first = time.perf_counter(), FirstToken()
        inputs = self._tokenizer([question.prompt for question in batch], return_tensors="pt", padding=True)
        names = [BASE if question.adapter is None else str(question.adapter) for question in batch]
        mix = {"adapter_names": names} if self._mixes else {}
        tokens = batch[0].tokens
        output = self._model.generate(
            **inputs, **mix, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, stopping_criteria=[first]
        )
        end = time.perf_counter()
        new = output.shape[1] - inputs["input_ids"].shape[1]
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return [Answer(begin, first.time or end, end, length, new) for length in lengths]


def main() -> None:
    """Answer batches until standard input ends."""
    generator = Generator(Path(sys.argv[1]), sys.argv[2:])
    print("ready", flush=True)
    for line in sys.stdin:
        answers = generator.generate(msgspec.json.decode(line, type=list[Question]))
        sys.stdout.buffer.write(msgspec.json.encode(answers) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
