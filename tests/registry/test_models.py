"""The catalogue says what a model is called and what really serves it."""

import json
import uuid
from dataclasses import replace

import pytest
from tests.registry.peft_folder import BASE, LIMITS

from gemlora.engines.contract import ModelFacts
from gemlora.errors import ModelNotFound
from gemlora.registry.models import HOSTED_ID, Base, Catalogue, DefaultAdapter, served_model


def test_the_hosted_model_keeps_its_published_identity() -> None:
    model = served_model(HOSTED_ID, "starter", BASE, LIMITS)

    assert model.id == "337170b7-bd2f-4631-9a57-688b579cf6d3"
    assert model.task.name == "Text Generation"
    assert model.description.startswith("This is a Gemma-7B base model")


def test_starter_weights_say_that_they_are_not_what_the_name_promises() -> None:
    starter = served_model(HOSTED_ID, "starter", BASE, LIMITS)
    real = served_model(HOSTED_ID, "google/gemma-7b-it", BASE, LIMITS)

    assert starter.notice == (
        "Served by tiny-gemma (none, context 64 tokens): small pretrained starter weights for development, "
        "not the model that the name promises."
    )
    assert real.notice == "Served by tiny-gemma (none, context 64 tokens)."
    assert (starter.starter, real.starter) == (True, False)


def test_another_id_gets_an_identity_that_stays() -> None:
    first, second = (served_model("@cf/mine", "file.gguf", BASE, LIMITS) for _ in range(2))

    assert first == second
    assert uuid.UUID(first.id)
    assert "tiny-gemma" in first.description


def test_the_notice_says_what_requests_get_that_name_no_adapter() -> None:
    model = replace(served_model(HOSTED_ID, "starter", BASE, LIMITS), default_adapter=DefaultAdapter("poet"))

    assert model.notice.endswith(
        "not the model that the name promises. Requests that name no adapter and are not raw get poet; "
        "cf-public-base in lora is the base alone."
    )


def test_an_unknown_model_is_not_found() -> None:
    catalogue = Catalogue([served_model(HOSTED_ID, "starter", BASE, LIMITS)])

    assert catalogue.get(HOSTED_ID) == catalogue.list()[0]
    with pytest.raises(ModelNotFound, match="No such model @cf/none or task"):
        catalogue.get("@cf/none")


def test_a_base_takes_its_facts_from_the_engine_and_survives_json() -> None:
    facts = ModelFacts(
        name="n", family="gemma", digest="d", quantization="int8", context_window=8, layers=2, vocabulary=9,
        modules={"q_proj": (4, 3)}, hidden=3, tied=True,
    )  # fmt: skip

    base = Base.of(facts)

    assert base == Base("n", "gemma", "d", "int8", 8, 2, 9, {"q_proj": (4, 3)}, 3, True)
    assert Base.from_json(json.loads(json.dumps(base.to_json()))) == base


def test_the_geometry_is_what_decides_whether_an_adapter_fits() -> None:
    same = replace(BASE, name="x", digest="x", quantization="int8", context_window=9)
    same = replace(same, modules=dict(reversed(BASE.modules.items())))

    assert same.geometry == BASE.geometry
    assert replace(BASE, layers=4).geometry != BASE.geometry
    assert replace(BASE, vocabulary=7).geometry != BASE.geometry
    assert replace(BASE, hidden=9).geometry != BASE.geometry
    assert replace(BASE, tied=False).geometry != BASE.geometry
    assert replace(BASE, modules=BASE.modules | {"q_proj": (8, 12)}).geometry != BASE.geometry


def test_a_base_of_an_older_version_is_unknown() -> None:
    older = BASE.to_json()
    del older["hidden"], older["tied"]

    assert Base.from_json(older) is None
