"""Each upload of the corpus through the routes: the right verdict with its reason, and nothing that is the server's."""

import re
from pathlib import Path

import httpx
from tests.api.real_parts import create, real_parts, refusal, upload
from tests.registry.peft_folder import LIMITS
from tests.registry.upload_corpus import UploadCase, cases

from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE


async def test_every_upload_of_the_corpus_gets_its_verdict(tmp_path: Path) -> None:
    largest = 16 << 20
    async with real_parts(tmp_path, largest=largest, highest_rank=LIMITS.max_rank) as parts, parts.client() as client:
        wrong = [
            problem
            for index, case in enumerate(cases())
            if (problem := await wrong_verdict(client, case, f"case-{index}", config_first=index % 2 == 0))
        ]

    assert wrong == []


async def wrong_verdict(client: httpx.AsyncClient, case: UploadCase, name: str, *, config_first: bool) -> str | None:
    """What is wrong with the answers to one case."""
    finetune = await create(client, name)
    files = [(CONFIG_FILE, case.config), (WEIGHTS_FILE, case.weights)]
    answers = [
        await upload(client, finetune, file_name, content) for file_name, content in files[:: 1 if config_first else -1]
    ]
    if [answer.status_code for answer in answers if answer.status_code >= 500]:
        return f"{case.name}: {[answer.text for answer in answers]}"
    refused = [answer for answer in answers if answer.status_code != 200]
    is_ready = not refused and answers[-1].json()["result"]["ready"]
    if case.reason is None:
        return None if is_ready else f"{case.name}: refused: {[answer.text for answer in refused]}"
    if not refused:
        return f"{case.name}: accepted"
    status, _, text = refusal(refused[0])
    if status == 400 and re.search(case.reason, text):
        return None
    return f"{case.name}: {status} {text[:300]}"
