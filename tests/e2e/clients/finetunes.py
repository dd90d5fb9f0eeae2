"""What a user of Cloudflare's Python library does with a finetune, from creation to answers; prints what came back.

Arguments: base URL, account id, API token, model, name, PEFT folder, raw prompt.
"""

import json
import sys
from pathlib import Path

from cloudflare import Cloudflare

base_url, account_id, api_token, model, name, folder, prompt = sys.argv[1:]
client = Cloudflare(base_url=base_url, api_token=api_token, max_retries=0)

finetune = client.ai.finetunes.create(account_id=account_id, model=model, name=name, description="By the library")
config = ("adapter_config.json", (Path(folder) / "adapter_config.json").read_bytes())
uploads = [
    client.ai.finetunes.assets.create(finetune.id, account_id=account_id, file_name="adapter_config.json", file=config)
]
with (Path(folder) / "adapter_model.safetensors").open("rb") as weights:
    uploads.append(
        client.ai.finetunes.assets.create(
            finetune.id, account_id=account_id, file_name="adapter_model.safetensors", file=weights
        )
    )


def answer(**lora: str) -> str:
    result = client.ai.run(model, account_id=account_id, prompt=prompt, raw=True, temperature=0, max_tokens=24, **lora)
    return result["response"]


print(
    json.dumps(
        {
            "created": finetune.to_dict(mode="json"),
            "uploads": [upload.success for upload in uploads],
            "listed": [item.to_dict(mode="json") for item in client.ai.finetunes.list(account_id=account_id)],
            "shelf": [item.name for item in client.ai.finetunes.public.list(account_id=account_id)],
            "models": [item["name"] for item in client.ai.models.list(account_id=account_id)],
            "base": answer(),
            "by_name": answer(lora=name),
            "by_id": answer(lora=finetune.id),
        }
    )
)
