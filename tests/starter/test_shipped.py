"""What the package ships is found by its folders and told apart without reading it."""

import os
from pathlib import Path

import pytest
from tests.registry.peft_folder import PeftFolder, tensors

from gemlora.errors import AdapterIncomplete
from gemlora.registry.names import check_name
from gemlora.starter.shipped import ADAPTERS, CHAT, ShippedAdapter, shipped_adapters

CARD = """---
license: gemma
base_model: google/gemma-3-270m
---

# Chat

Makes a chat model
of the starter weights.

## Training

More.
"""


@pytest.fixture
def chat(tmp_path: Path) -> ShippedAdapter:
    return ShippedAdapter(PeftFolder().write(tmp_path / "adapters" / "chat"))


def test_each_folder_is_an_adapter_with_a_name_of_the_shelf(chat: ShippedAdapter) -> None:
    PeftFolder().write(chat.folder.with_name("intents"))
    (chat.folder.parent / "README.md").touch()

    assert [one.name for one in shipped_adapters(chat.folder.parent)] == [CHAT, "cf-public-intents"]


def test_a_package_without_adapters_ships_none(tmp_path: Path) -> None:
    assert shipped_adapters(tmp_path / "missing") == ()


def test_what_the_package_ships_can_be_put_on_the_shelf() -> None:
    for shipped in shipped_adapters(ADAPTERS):
        check_name(shipped.name, public=True)
        assert shipped.fingerprint()
        assert shipped.description()


def test_the_description_is_the_first_paragraph_of_the_model_card(chat: ShippedAdapter) -> None:
    assert chat.description() == ""

    (chat.folder / "README.md").write_text(CARD)

    assert chat.description() == "Makes a chat model of the starter weights."


def test_the_fingerprint_follows_size_and_time_of_the_files_and_the_release(
    chat: ShippedAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = chat.fingerprint()
    (chat.folder / "README.md").write_text(CARD)
    assert chat.fingerprint() == before

    monkeypatch.setattr("gemlora.starter.shipped.__version__", "9.9.9")
    released = chat.fingerprint()
    PeftFolder(tensors=tensors(seed=1)).write(chat.folder)
    os.utime(chat.folder / "adapter_model.safetensors", (1, 1))

    assert len({before, released, chat.fingerprint()}) == 3


def test_the_digest_is_that_of_the_content(chat: ShippedAdapter, tmp_path: Path) -> None:
    same = ShippedAdapter(PeftFolder().write(tmp_path / "same"))
    other = ShippedAdapter(PeftFolder(tensors=tensors(seed=1)).write(tmp_path / "other"))

    assert chat.digest() == same.digest() != other.digest()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(chat: ShippedAdapter, name: str) -> None:
    (chat.folder / name).unlink()

    for use in (chat.fingerprint, chat.digest):
        with pytest.raises(AdapterIncomplete, match=name):
            use()
