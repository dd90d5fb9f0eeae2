"""`wrangler ai finetune` and `wrangler ai models` against a real server: what they print and what is served then."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.running_server import MODEL, RunningServer
from tests.e2e.wrangler import RELEASES, Wrangler

if TYPE_CHECKING:
    from tests.e2e.tiny_model import PeftAdapter, TinyModel

GREEDY = {"prompt": "the quick", "raw": True, "temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module", params=RELEASES)
def wrangler(
    request: pytest.FixtureRequest, tiny_server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Wrangler:
    return Wrangler(request.param, tiny_server, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def created(wrangler: Wrangler, tiny_adapter: "PeftAdapter") -> str:
    """The name of a finetune that wrangler created."""
    name = f"by-{wrangler.release}"
    finished = wrangler("ai", "finetune", "create", MODEL, name, str(tiny_adapter.folder))
    assert finished.returncode == 0, finished.stdout
    assert f'Assets uploaded, finetune "{name}" is ready to use.' in finished.stdout
    return name


def listed(wrangler: Wrangler) -> list[dict[str, str]]:
    output = wrangler("ai", "finetune", "list", "--json").stdout
    return json.loads(output[output.index("[") :])


def test_list_shows_the_finetune_as_a_table_and_as_json(wrangler: Wrangler, created: str) -> None:
    (finetune,) = [finetune for finetune in listed(wrangler) if finetune["name"] == created]

    table = wrangler("ai", "finetune", "list").stdout

    assert re.search(rf"{finetune['id']}\W+{created}\b", table)
    assert finetune["model"] == MODEL


def test_the_finetune_answers_by_name_and_by_id_as_peft_does(
    wrangler: Wrangler, created: str, tiny_model: "TinyModel", tiny_adapter: "PeftAdapter"
) -> None:
    (identity,) = [finetune["id"] for finetune in listed(wrangler) if finetune["name"] == created]

    by_name = wrangler.server.text(GREEDY | {"lora": created})
    by_id = wrangler.server.text(GREEDY | {"lora": identity})

    assert by_name == by_id == tiny_model.greedy(tiny_adapter.model, "the quick", 24)
    assert by_name != wrangler.server.text(GREEDY)


def test_models_lists_what_is_served(wrangler: Wrangler) -> None:
    assert MODEL in wrangler("ai", "models").stdout
    listing = ("models", "list") if wrangler.release == "wrangler" else ("models",)
    output = wrangler("ai", *listing, "--json").stdout
    assert [model["name"] for model in json.loads(output[output.index("[") :])] == [MODEL]


def test_schema_shows_what_the_model_takes_and_gives(tiny_server: RunningServer, tmp_path: Path) -> None:
    finished = Wrangler("wrangler", tiny_server, tmp_path)("ai", "models", "schema", MODEL)

    schemas = json.loads(finished.stdout[finished.stdout.index("{") :])
    assert [alternative["title"] for alternative in schemas["input"]["oneOf"]] == ["Prompt", "Messages"]
    assert "response" in json.dumps(schemas["output"])


def test_a_name_that_is_taken_is_refused_with_the_reason(
    wrangler: Wrangler, created: str, tiny_adapter: "PeftAdapter"
) -> None:
    finished = wrangler("ai", "finetune", "create", MODEL, created, str(tiny_adapter.folder))

    assert "ready to use" not in finished.stdout
    assert f"named '{created}' exists already" in finished.stdout


def test_an_unknown_model_is_refused_with_the_reason(wrangler: Wrangler, tiny_adapter: "PeftAdapter") -> None:
    finished = wrangler("ai", "finetune", "create", "@cf/google/none", "orphan", str(tiny_adapter.folder))

    assert "No such model @cf/google/none" in finished.stdout
    assert "orphan" not in [finetune["name"] for finetune in listed(wrangler)]


def test_weights_that_do_not_fit_their_config_are_refused_by_tensor(
    wrangler: Wrangler, tiny_adapter: "PeftAdapter", tmp_path: Path
) -> None:
    name = f"wrong-rank-by-{wrangler.release}"
    config = json.loads((tiny_adapter.folder / "adapter_config.json").read_text()) | {"r": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = (tiny_adapter.folder / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)

    finished = wrangler("ai", "finetune", "create", MODEL, name, str(tmp_path))

    assert "ready to use" not in finished.stdout
    assert re.search(r"_proj\.lora_[AB]\.weight", finished.stdout)
    refused = wrangler.server.run(GREEDY | {"lora": name})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 3039)


def test_a_folder_without_weights_creates_nothing(
    wrangler: Wrangler, tiny_adapter: "PeftAdapter", tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_bytes((tiny_adapter.folder / "adapter_config.json").read_bytes())

    finished = wrangler("ai", "finetune", "create", MODEL, "half", str(tmp_path))

    assert "Asset missing" in finished.stdout
    assert "half" not in [finetune["name"] for finetune in listed(wrangler)]
