"""Every variant of LoRA that is served: as PEFT saves it, uploaded, and mixed with the others in one batch."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests
from tests.e2e.running_server import ACCOUNT_ID, MODEL, RunningServer

if TYPE_CHECKING:
    from tests.e2e.tiny_model import PeftAdapter, TinyModel

ENDS = ["embed_tokens", "lm_head"]
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 30}},
    "some-layers": {"layers_to_transform": [1, 3], "target_modules": ["v_proj", "down_proj"]},
    "dora": {"use_dora": True},
    "embedding": {"target_modules": ["embed_tokens"]},
    "head": {"target_modules": ["lm_head"]},
    "head-dora": {"target_modules": ["lm_head", "o_proj"], "use_dora": True},
    "both-ends": {"target_modules": [*ENDS, "q_proj"], "rank_pattern": {"lm_head": 3}},
}
PROMPTS = (
    "a", "the", "fox", "the lazy dog", "jumps over", "what is the", "question to the answer", "the quick brown",
    "over the dog", "is it the answer", "brown fox brown fox", "dog and fox", "quick quick quick",
)  # fmt: skip
LENGTH = 8


@pytest.fixture(scope="module")
def uploaded(
    tiny_server: RunningServer, tiny_model: "TinyModel", tmp_path_factory: pytest.TempPathFactory
) -> dict[str, "PeftAdapter"]:
    """All variants, on the server under their names."""
    adapters = {}
    finetunes = f"{tiny_server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/finetunes"
    for seed, (name, settings) in enumerate(VARIANTS.items()):
        adapters[name] = tiny_model.adapter(tmp_path_factory.mktemp(name) / "adapter", seed, **settings)
        post = {"headers": tiny_server.authorization, "timeout": 60}
        created = requests.post(finetunes, json={"model": MODEL, "name": name}, **post)
        assert created.ok, created.text
        for file_name in ("adapter_config.json", "adapter_model.safetensors"):
            form = {"file_name": (None, file_name), "file": (adapters[name].folder / file_name).read_bytes()}
            answer = requests.post(f"{finetunes}/{name}/finetune-assets", files=form, **post)
            assert answer.ok, answer.text
        assert answer.json()["result"]["ready"]
        assert answer.json()["result"]["difference"] > 0
    return adapters


def test_mixed_greedy_answers_are_pefts(
    tiny_server: RunningServer, tiny_model: "TinyModel", uploaded: dict[str, "PeftAdapter"]
) -> None:
    questions = [(name, prompt) for prompt in PROMPTS for name in uploaded]
    assert len(questions) > 100

    def ask(question: tuple[str, str]) -> str:
        name, prompt = question
        return tiny_server.text({"prompt": prompt, "raw": True, "temperature": 0, "max_tokens": LENGTH, "lora": name})

    with ThreadPoolExecutor(16) as clients:
        answers = dict(zip(questions, clients.map(ask, questions), strict=True))

    expected = {(name, prompt): tiny_model.greedy(uploaded[name].model, prompt, LENGTH) for name, prompt in questions}
    assert {question: text for question, text in answers.items() if text != expected[question]} == {}
    assert len({answers[name, "the"] for name in uploaded}) == len(uploaded)
