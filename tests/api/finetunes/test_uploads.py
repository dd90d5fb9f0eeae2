"""Uploads in process: every way that a form comes, is refused or comes twice."""

from pathlib import Path

import httpx
import pytest
from tests.api.real_parts import FINETUNES, RUN, RealParts, create, peft_files, ready, refusal, upload
from tests.registry.peft_folder import PeftFolder, config, tensors

from gemlora.errors import OutOfCapacity, StorageFailed
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE


class TestUploading:
    @pytest.mark.parametrize("order", [[CONFIG_FILE, WEIGHTS_FILE], [WEIGHTS_FILE, CONFIG_FILE]])
    @pytest.mark.parametrize("by_name", [True, False])
    async def test_the_second_file_makes_it_ready_and_runnable(
        self, client: httpx.AsyncClient, parts: RealParts, files: dict[str, bytes], order: list[str], by_name: bool
    ) -> None:
        finetune_id = await create(client, "poet")
        finetune = "poet" if by_name else finetune_id
        before = await client.post(RUN, json={"prompt": "x", "lora": "poet"})

        first = await upload(client, finetune, order[0], files[order[0]])
        between = await client.post(RUN, json={"prompt": "x", "lora": "poet"})
        second = await upload(client, f"{finetune}", order[1], files[order[1]])
        after = await client.post(RUN, json={"prompt": "x", "lora": "poet"})

        assert [before.json()["errors"][0]["code"], between.json()["errors"][0]["code"]] == [3039, 3039]
        assert first.json()["success"] is second.json()["success"] is True
        assert first.json()["result"]["finetune_id"] == finetune_id
        assert (first.json()["result"]["ready"], first.json()["result"]["files"]) == (False, [order[0]])
        result = second.json()["result"]
        assert (result["file_name"], result["ready"], result["difference"]) == (order[1], True, 1.0)
        assert (result["rank"], result["modules"], result["warnings"]) == (2, ["q_proj", "v_proj"], [])
        assert result["size"] == len(files[WEIGHTS_FILE])
        assert parts.probe.probed == [result["digest"]]
        assert after.headers["gemlora-adapter"] == f"poet@{result['digest']}"

    async def test_the_path_may_end_with_a_slash(self, client: httpx.AsyncClient, files: dict[str, bytes]) -> None:
        await create(client, "poet")

        response = await client.post(
            f"{FINETUNES}/poet/finetune-assets/",
            data={"file_name": CONFIG_FILE},
            files={"file": ("blob", files[CONFIG_FILE], "application/octet-stream")},
        )

        assert response.json()["success"] is True

    async def test_the_file_may_come_before_its_name(self, client: httpx.AsyncClient, files: dict[str, bytes]) -> None:
        await create(client, "poet")
        form = [("file", ("upload", files[CONFIG_FILE])), ("file_name", (None, CONFIG_FILE))]

        response = await client.post(f"{FINETUNES}/poet/finetune-assets", files=form)

        assert response.json()["result"]["file_name"] == CONFIG_FILE

    @pytest.mark.parametrize(
        "file_name",
        [
            "",
            "model.safetensors",
            "config.json",
            "adapter_model.bin",
            "../adapter_config.json",
            "/etc/passwd",
            "Adapter_config.json",
            "adapter_config.json\x00",
            "adapter_config.json ",
            "adapter_config.json\r\n",
        ],
    )
    async def test_other_file_names_are_refused(
        self, client: httpx.AsyncClient, parts: RealParts, files: dict[str, bytes], file_name: str
    ) -> None:
        await create(client, "poet")

        status, _, message = refusal(await upload(client, "poet", file_name, files[CONFIG_FILE]))

        assert status == 400
        assert CONFIG_FILE in message
        assert WEIGHTS_FILE in message
        assert parts.stored() == []

    async def test_an_unknown_finetune_is_refused_before_the_form_is_read(self, client: httpx.AsyncClient) -> None:
        response = await client.post(f"{FINETUNES}/nobody-s/finetune-assets", content=b"no form at all")

        assert refusal(response) == (404, 3037, "Finetune nobody-s not found")

    async def test_a_body_that_is_no_form_is_refused(self, client: httpx.AsyncClient) -> None:
        await create(client, "poet")

        status, code, message = refusal(await client.post(f"{FINETUNES}/poet/finetune-assets", json={}))

        assert (status, code) == (400, 5006)
        assert "multipart/form-data" in message

    async def test_a_wrong_file_is_refused_with_the_name_of_what_is_wrong_and_not_kept(
        self, client: httpx.AsyncClient, parts: RealParts, tmp_path: Path
    ) -> None:
        wrong = peft_files(PeftFolder(config(use_dora="maybe")), at=tmp_path / "wrong")
        await create(client, "poet")

        status, code, message = refusal(await upload(client, "poet", CONFIG_FILE, wrong[CONFIG_FILE]))

        assert (status, code) == (400, 5004)
        assert "use_dora" in message
        assert parts.stored() == []

    async def test_a_pair_that_does_not_fit_is_refused_until_one_of_them_is_replaced(
        self, client: httpx.AsyncClient, files: dict[str, bytes], tmp_path: Path
    ) -> None:
        other = peft_files(PeftFolder(config(r=3), tensors(rank=3)), at=tmp_path / "other")
        await create(client, "poet")
        await upload(client, "poet", CONFIG_FILE, files[CONFIG_FILE])

        refused = await upload(client, "poet", WEIGHTS_FILE, other[WEIGHTS_FILE])
        replaced = await upload(client, "poet", CONFIG_FILE, other[CONFIG_FILE])
        accepted = await upload(client, "poet", WEIGHTS_FILE, other[WEIGHTS_FILE])

        assert refusal(refused)[:2] == (400, 5004)
        assert replaced.json()["result"]["ready"] is False
        assert (accepted.json()["result"]["ready"], accepted.json()["result"]["rank"]) == (True, 3)

    async def test_the_same_file_again_is_a_success_and_another_one_is_not(
        self, client: httpx.AsyncClient, files: dict[str, bytes]
    ) -> None:
        await ready(client, "poet", files)

        for name, content in files.items():
            assert (await upload(client, "poet", name, content)).json()["result"]["ready"] is True
            status, _, message = refusal(await upload(client, "poet", name, content + b" "))
            assert status == 400
            assert name in message

    async def test_a_probe_without_effect_is_a_warning(
        self, client: httpx.AsyncClient, parts: RealParts, files: dict[str, bytes]
    ) -> None:
        parts.probe.difference = 0.0

        await ready(client, "poet", files)

        result = (await client.get(f"{FINETUNES}/poet")).json()["result"]
        assert result["difference"] == 0
        assert "does not change" in result["warnings"][0]

    async def test_an_engine_without_room_is_asked_again_later(
        self, client: httpx.AsyncClient, parts: RealParts, files: dict[str, bytes]
    ) -> None:
        await create(client, "poet")
        await upload(client, "poet", CONFIG_FILE, files[CONFIG_FILE])
        parts.probe.failure = OutOfCapacity("full")
        refused = await upload(client, "poet", WEIGHTS_FILE, files[WEIGHTS_FILE])
        parts.probe.failure = None

        accepted = await upload(client, "poet", WEIGHTS_FILE, files[WEIGHTS_FILE])

        assert refusal(refused)[:2] == (429, 3040)
        assert refused.headers["retry-after"] == "1"
        assert accepted.json()["result"]["ready"] is True

    async def test_a_disk_that_fails_is_a_503_that_names_no_path(
        self, client: httpx.AsyncClient, parts: RealParts, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise StorageFailed("Could not write /secret/place") from OSError(28, "No space left on device")

        await create(client, "poet")
        monkeypatch.setattr("gemlora.storage.objects.Incoming.write", fail)
        response = await upload(client, "poet", CONFIG_FILE, files[CONFIG_FILE])

        assert refusal(response) == (503, 3044, "The change could not be stored, please try again.")
        assert response.headers["retry-after"] == "1"
        (line,) = [line for line in parts.log_lines if line["level"] == "error"]
        assert (line["cause"], line["errno"]) == ("OSError", 28)
