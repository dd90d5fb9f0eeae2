"""Downloads of a finetune's files."""

import hashlib

import httpx
import pytest
from tests.api.real_parts import FINETUNES, create, ready, refusal, upload

from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE


class TestDownloading:
    async def test_the_bytes_are_those_that_were_uploaded(
        self, client: httpx.AsyncClient, files: dict[str, bytes]
    ) -> None:
        await ready(client, "poet", files)

        for name, content in files.items():
            response = await client.get(
                f"{FINETUNES}/poet/finetune-assets/{name}", headers={"range": "bytes=0-1,3-4", "if-range": "x"}
            )
            assert (response.status_code, response.content) == (200, content)
            assert response.headers["content-length"] == str(len(content))
            assert response.headers["content-disposition"] == f'attachment; filename="{name}"'
            wanted = "application/json" if name == CONFIG_FILE else "application/octet-stream"
            assert response.headers["content-type"] == wanted

    async def test_a_copy_that_the_client_has_already_is_not_sent_again(
        self, client: httpx.AsyncClient, files: dict[str, bytes]
    ) -> None:
        await ready(client, "poet", files)
        url = f"{FINETUNES}/poet/finetune-assets/{WEIGHTS_FILE}"
        etag = f'"{hashlib.sha256(files[WEIGHTS_FILE]).hexdigest()}"'

        whole = await client.get(url, headers={"if-none-match": '"other"'})
        known = await client.get(url, headers={"if-none-match": f'"other" , {etag}'})

        assert (whole.status_code, whole.headers["etag"], whole.content) == (200, etag, files[WEIGHTS_FILE])
        assert (known.status_code, known.headers["etag"], known.content) == (304, etag, b"")

    async def test_the_headers_alone_say_the_size(self, client: httpx.AsyncClient, files: dict[str, bytes]) -> None:
        await ready(client, "poet", files)

        response = await client.head(f"{FINETUNES}/poet/finetune-assets/{WEIGHTS_FILE}")

        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["content-length"] == str(len(files[WEIGHTS_FILE]))

    async def test_a_file_can_be_downloaded_before_the_other_one_is_there(
        self, client: httpx.AsyncClient, files: dict[str, bytes]
    ) -> None:
        await create(client, "poet")
        await upload(client, "poet", CONFIG_FILE, files[CONFIG_FILE])

        there = await client.get(f"{FINETUNES}/poet/finetune-assets/{CONFIG_FILE}")
        missing = await client.get(f"{FINETUNES}/poet/finetune-assets/{WEIGHTS_FILE}")

        assert there.content == files[CONFIG_FILE]
        assert refusal(missing)[:2] == (409, 3039)

    @pytest.mark.parametrize("name", ["manifest.json", "..%2Fadapter_config.json", "%00", "adapter_config.json%00"])
    async def test_other_files_are_refused(self, client: httpx.AsyncClient, files: dict[str, bytes], name: str) -> None:
        await ready(client, "poet", files)

        assert refusal(await client.get(f"{FINETUNES}/poet/finetune-assets/{name}"))[:2] == (400, 5006)
