"""OpenAI's request bodies, as its clients send them: what they ask for in this server's terms.

Members that change nothing here are ignored, as `user` and `store`; what would change the answer and cannot be
done is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gemlora.api.inputs import adapter_name, conversation, join_text_parts, rejects_if_busy, stop_strings
from gemlora.api.shapes import ShapeReader
from gemlora.api.validation import Json, type_mismatch
from gemlora.errors import InvalidRequest
from gemlora.serving.prompt import Prompt
from gemlora.serving.service import SamplingChoice
from gemlora.serving.shapes import Shape

MOST_CHOICES = 8
"""Answers of one request: choices of one prompt, or of several together."""

TOO_MANY = f"at most {MOST_CHOICES} answers can be asked for at once"

SEEDS = 1 << 64

UNSUPPORTED = (
    "logprobs", "top_logprobs", "logit_bias", "functions", "function_call", "audio", "suffix", "prediction",
    "min_p", "min_tokens", "ignore_eos", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
)  # fmt: skip
"""Members that would change the answer. Null, false, zero and empty ones ask for nothing."""

LONGEST_MODEL = 1024
"""Characters of a model's name with its adapter."""

STRIDE = 0x9E3779B97F4A7C15
"""Between the seeds of a request's choices: large, so that requests with neighbouring seeds share none, and odd."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for: each of the `prompts` answered `choices` times.

    `lora` None: the request names no adapter; empty: it asks for none. `echo` repeats the prompt before its answer.
    """

    model: str
    prompts: tuple[Prompt, ...]
    choices: int
    stream: bool
    include_usage: bool
    max_tokens: int
    sampling: SamplingChoice
    lora: str | None
    stop: tuple[str, ...]
    shape: Shape
    reject_if_busy: bool
    echo: bool = False

    def sampling_of(self, choice: int) -> SamplingChoice:
        """The first choice is the one that the request would get alone; with a seed the others have their own."""
        seed = self.sampling.seed
        if not choice or seed is None:
            return self.sampling
        return replace(self.sampling, seed=(seed + choice * STRIDE) % SEEDS)


class Reader:
    """Reads bodies. What they leave open is the model's: `max_tokens` and `temperature`."""

    def __init__(self, max_tokens: int, temperature: float, shapes: ShapeReader) -> None:
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._shapes = shapes

    def chat(self, body: Json) -> Wanted:
        """A chat completion. Raises `InvalidRequest`."""
        members = _object(body)
        _refuse_unsupported(members)
        if members.get("modalities") not in (None, [], ["text"]):
            raise InvalidRequest("'/modalities' other than text are not supported")
        model, lora = _model(members)
        messages = _object(join_text_parts(members, model)).get("messages")
        if not isinstance(messages, list):
            raise InvalidRequest(type_mismatch(("messages",), "array", messages))
        prompt = conversation([_completed(message, index) for index, message in enumerate(messages)])
        limit = "max_completion_tokens" if members.get("max_completion_tokens") is not None else "max_tokens"
        return self._wanted(members, model, lora, (prompt,), limit, self._shapes.read(members))

    def completion(self, body: Json) -> Wanted:
        """A completion of texts, which get no turns. Raises `InvalidRequest`."""
        members = _object(body)
        _refuse_unsupported(members)
        if members.get("best_of") not in (None, members.get("n") or 1):
            raise InvalidRequest("'/best_of' is not supported")
        if members.get("logprobs") is not None:  # 0 asks for those of the text itself
            raise InvalidRequest("'/logprobs' is not supported")
        if members.get("tools"):
            raise InvalidRequest("'/tools' are only supported in chat completions")
        model, lora = _model(members)
        texts = members.get("prompt")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts:
            raise InvalidRequest("'/prompt' must be a text or a list of texts")
        if len(texts) > MOST_CHOICES:
            raise InvalidRequest(TOO_MANY)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InvalidRequest(type_mismatch(("prompt", str(index)), "string", text))
        prompts = tuple(Prompt.of_text(text, raw=True) for text in texts)
        shape = Shape(self._shapes.document(members.get("response_format")))
        return self._wanted(members, model, lora, prompts, "max_tokens", shape, echo=_boolean(members, "echo"))

    def _wanted(
        self,
        members: Mapping[str, Any],
        model: str,
        lora: str | None,
        prompts: tuple[Prompt, ...],
        limit: str,
        shape: Shape,
        *,
        echo: bool = False,
    ) -> Wanted:
        if len(prompts) * (choices := _integer(members, "n", 1, 1, MOST_CHOICES)) > MOST_CHOICES:
            raise InvalidRequest(TOO_MANY)
        options = members.get("stream_options")
        if options is not None and not isinstance(options, dict):
            raise InvalidRequest(type_mismatch(("stream_options",), "object", options))
        return Wanted(
            model=model,
            prompts=prompts,
            choices=choices,
            stream=_boolean(members, "stream"),
            include_usage=_boolean(options or {}, "include_usage"),
            max_tokens=self._max_tokens
            if members.get(limit) == -1
            else _integer(members, limit, self._max_tokens, 1, None),
            sampling=self._sampling(members),
            lora=lora,
            stop=stop_strings(members.get("stop")),
            shape=shape,
            reject_if_busy=rejects_if_busy(members.get("options")),
            echo=echo,
        )

    def _sampling(self, members: Mapping[str, Any]) -> SamplingChoice:
        seed = members.get("seed")
        top_k = members.get("top_k")
        return SamplingChoice(
            seed=None if seed is None else _integer(members, "seed", 0, None, None) % SEEDS,
            temperature=_number(members, "temperature", self._temperature, 0, 5),
            top_k=None if top_k in (None, 0, -1) else _integer(members, "top_k", 0, 1, 1 << 30),
            top_p=_number(members, "top_p", 1, 0, 2),
            repetition_penalty=_number(members, "repetition_penalty", 1, 0, 2),
            frequency_penalty=_number(members, "frequency_penalty", 0, -2, 2),
            presence_penalty=_number(members, "presence_penalty", 0, -2, 2),
        )


def _object(body: Json) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidRequest(type_mismatch((), "object", body))
    return body


def _refuse_unsupported(members: Mapping[str, Any]) -> None:
    for name in UNSUPPORTED:
        if members.get(name):
            raise InvalidRequest(f"'/{name}' is not supported")


def _model(members: Mapping[str, Any]) -> tuple[str, str | None]:
    """The model's name, and the adapter: `lora`, else what stands behind a colon in `model`."""
    model = members.get("model")
    if not isinstance(model, str):
        raise InvalidRequest(type_mismatch(("model",), "string", model))
    if len(model) > LONGEST_MODEL:
        raise InvalidRequest(f"Length of '/model' must be <= {LONGEST_MODEL} not met")
    name, colon, adapter = model.partition(":")
    lora = adapter_name(members, ("lora",)) if members.get("lora") is not None else None
    return name, lora if lora is not None or not colon else adapter


def _completed(message: Json, index: int) -> Json:
    """A message as the native route has it: with a role, and with a text where OpenAI's have none."""
    if not isinstance(message, dict):
        raise InvalidRequest(type_mismatch(("messages", str(index)), "object", message))
    role, content = message.get("role"), message.get("content")
    for name, value in (("role", role), ("content", "" if content is None else content)):
        if not isinstance(value, str):
            raise InvalidRequest(type_mismatch(("messages", str(index), name), "string", value))
    return {**message, "role": "system" if role == "developer" else role, "content": content or ""}


def _boolean(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(type_mismatch((name,), "boolean", value))
    return bool(value)


def _integer(members: Mapping[str, Any], name: str, default: int, low: int | None, high: int | None) -> int:
    value = _within(members, name, default, low, high)
    if not float(value).is_integer():
        raise InvalidRequest(type_mismatch((name,), "integer", value))
    return int(value)


def _number(members: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    return float(_within(members, name, default, low, high))


def _within(
    members: Mapping[str, Any], name: str, default: float, low: float | None, high: float | None
) -> int | float:
    value: Json = members.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(type_mismatch((name,), "number", value))
    if low is not None and value < low:
        raise InvalidRequest(f"'/{name}' must be >= {low}")
    if high is not None and value > high:
        raise InvalidRequest(f"'/{name}' must be <= {high}")
    return value
