"""What can be served: the catalogue's models and the base weights behind them."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from gemlora.errors import ModelNotFound
from gemlora.registry.names import BARE_BASE

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear modules of a layer that an adapter may change."""


class Facts(Protocol):
    """The part of an engine's facts that the registry needs; `engines.contract.ModelFacts` has it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def quantization(self) -> str: ...  # noqa: D102
    @property
    def context_window(self) -> int: ...  # noqa: D102
    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def vocabulary(self) -> int: ...  # noqa: D102
    @property
    def modules(self) -> Mapping[str, tuple[int, int]]: ...  # noqa: D102
    @property
    def hidden(self) -> int: ...  # noqa: D102
    @property
    def tied(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Base:
    """The base weights that serve a model. `modules` maps each linear module to its (outputs, inputs).

    `hidden` is the width of the embedding; `tied` says whether the embedding is also the output head.
    """

    name: str
    family: str
    digest: str
    quantization: str
    context_window: int
    layers: int
    vocabulary: int
    modules: dict[str, tuple[int, int]]
    hidden: int
    tied: bool

    @classmethod
    def of(cls, facts: Facts) -> "Base":
        """What an engine says about itself."""
        return cls(
            facts.name, facts.family, facts.digest, facts.quantization, facts.context_window, facts.layers,
            facts.vocabulary, {module: (outputs, inputs) for module, (outputs, inputs) in facts.modules.items()},
            facts.hidden, facts.tied,
        )  # fmt: skip

    @property
    def geometry(self) -> str:
        """SHA-256 of everything that decides whether an adapter fits."""
        facts = [self.layers, sorted(self.modules.items()), self.vocabulary, self.hidden, self.tied]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As plain data for the database."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Base | None":
        """What `to_json` made; None if it was made before there were all of today's facts."""
        if not {field.name for field in fields(cls)} <= data.keys():
            return None
        modules = {module: (outputs, inputs) for module, (outputs, inputs) in data["modules"].items()}
        return cls(**{**data, "modules": modules})


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """The largest adapter that is accepted, and how many."""

    max_rank: int = 256
    max_bytes: int = 2 << 30
    max_adapters: int | None = None
    """How many an account may have, those on the shelf not counted. None: any number."""


@dataclass(frozen=True, slots=True)
class DefaultAdapter:
    """The adapter of requests that name none and are not raw."""

    name: str
    optional: bool = False
    """Whether the base alone answers where there is no such adapter any more: nobody asked for this one."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is for."""

    id: str
    name: str
    description: str


TEXT_GENERATION = Task(
    "c329a1f9-323d-4e91-b2aa-582dd4188d34",
    "Text Generation",
    "Family of generative text models, such as large language models (LLM), that can be adapted for a variety of "
    "natural language tasks.",
)

HOSTED_ID = "@cf/google/gemma-7b-it-lora"
"""The hosted model that gemlora stands in for."""

_HOSTED_UUID = "337170b7-bd2f-4631-9a57-688b579cf6d3"
_HOSTED_DESCRIPTION = (
    "This is a Gemma-7B base model that Cloudflare dedicates for inference with LoRA adapters. Gemma is a family of "
    "lightweight, state-of-the-art open models from Google, built from the same research and technology used to "
    "create the Gemini models."
)
_STARTER_WEIGHTS = "starter"


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the catalogue, and what really serves it."""

    id: str
    name: str
    """The catalogue id that clients write, such as `@cf/google/gemma-7b-it-lora`."""
    description: str
    task: Task
    base: Base
    starter: bool
    """Whether the small starter weights stand in for the model that `name` promises."""
    limits: AdapterLimits
    default_adapter: DefaultAdapter | None = None

    @property
    def author(self) -> str:
        """Whose model it is, from its name: `google`."""
        return self.name.rpartition("/")[0].rpartition("/")[2]

    @property
    def notice(self) -> str:
        """What answers, honestly."""
        served = f"Served by {self.base.name} ({self.base.quantization}, context {self.base.context_window} tokens)"
        if self.starter:
            served += ": small pretrained starter weights for development, not the model that the name promises"
        if self.default_adapter is None:
            return f"{served}."
        return (
            f"{served}. Requests that name no adapter and are not raw get {self.default_adapter.name}; "
            f"{BARE_BASE} in lora is the base alone."
        )


class Catalogue:
    """All models of this server."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.name: model for model in models}

    def get(self, name: str) -> Model:
        """The model with this catalogue id. Raises `ModelNotFound`."""
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFound(name) from None

    def list(self) -> tuple[Model, ...]:
        """All models."""
        return tuple(self._models.values())


def served_model(name: str, weights: str, base: Base, limits: AdapterLimits) -> Model:
    """The catalogue's entry for `name`, served by `base`, which the setting `weights` selected."""
    hosted = name == HOSTED_ID
    return Model(
        id=_HOSTED_UUID if hosted else str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        name=name,
        description=_HOSTED_DESCRIPTION if hosted else f"{base.name} with LoRA adapters.",
        task=TEXT_GENERATION,
        base=base,
        starter=weights == _STARTER_WEIGHTS,
        limits=limits,
    )
