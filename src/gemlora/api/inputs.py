"""From a model's JSON inputs to what is asked for. Refuses nothing that the published schema accepts, unless no
sensible answer exists."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemlora.api.shapes import ShapeReader
from gemlora.api.validation import Json, Schema, Validator, type_mismatch
from gemlora.errors import InvalidRequest
from gemlora.serving.prompt import Message, Prompt, ToolCall
from gemlora.serving.service import RunRequest, SamplingChoice
from gemlora.serving.shapes import FREE, Shape

MOST_STOPS = 16
LONGEST_STOP = 1024
"""Bounds on stop strings: every piece of an answer is compared with all of them."""

TEXT_PARTS = ("text", "refusal")
"""Types of parts of a content that are text; it stands in the member of the same name."""

PROMPT = "Prompt"
"""Title of the schema's alternative that has a prompt; the other one has messages."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a request asks for. `lora` None: the body names no adapter; empty: it asks for none."""

    prompt: Prompt
    stream: bool
    max_tokens: int
    sampling: SamplingChoice
    lora: str | None
    stop: tuple[str, ...] = ()
    shape: Shape = FREE

    def request(self, id: str, account_id: str, model: str) -> RunRequest:
        """What they ask of the text service."""
        return RunRequest(
            id=id,
            account_id=account_id,
            model=model,
            prompt=self.prompt,
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            adapter=self.lora,
            stop=self.stop,
            shape=self.shape,
        )


class InputReader:
    """Reads the inputs of text generation as its schema describes them; `max_tokens` and `temperature` are defaults."""

    def __init__(self, schema: Schema, shapes: ShapeReader) -> None:
        self._shapes = shapes
        self._validator = Validator(schema)
        self._titles = [alternative.get("title") for alternative in schema["oneOf"]]
        defaults = schema["oneOf"][0]["properties"]
        self.max_tokens: int = defaults["max_tokens"]["default"]
        self.temperature: float = defaults["temperature"]["default"]

    def read(self, inputs: Json, model: str) -> Inputs:
        """Check and convert. Raises `InvalidRequest`."""
        inputs = join_text_parts(inputs, model)
        alternative = self._titles[self._validator.alternative(inputs)]
        if not isinstance(inputs, dict):
            raise TypeError("the schema admits only objects")
        if inputs.get("image") is not None:
            raise InvalidRequest(f"'/image' is not supported, {model} is a text-only model")
        max_tokens = int(inputs.get("max_tokens", self.max_tokens))
        if max_tokens < 1:
            raise InvalidRequest("'/max_tokens' must be >= 1")
        return Inputs(
            prompt=(
                Prompt.of_text(inputs["prompt"], raw=_is_raw(inputs))
                if alternative == PROMPT
                else conversation(inputs["messages"], raw=_is_raw(inputs))
            ),
            stream=inputs.get("stream", False),
            max_tokens=max_tokens,
            sampling=self._sampling(inputs),
            lora=adapter_name(inputs, ("lora",)),
            stop=stop_strings(inputs.get("stop")),
            shape=self._shapes.read(inputs),
        )

    def _sampling(self, inputs: Mapping[str, Any]) -> SamplingChoice:
        seed, top_k = inputs.get("seed"), inputs.get("top_k")
        return SamplingChoice(
            seed=None if seed is None else int(seed),
            temperature=float(inputs.get("temperature", self.temperature)),
            top_k=None if top_k is None else int(top_k),
            top_p=float(inputs.get("top_p", 1)),
            repetition_penalty=float(inputs.get("repetition_penalty", 1)),
            frequency_penalty=float(inputs.get("frequency_penalty", 0)),
            presence_penalty=float(inputs.get("presence_penalty", 0)),
        )


def stop_strings(stop: Json) -> tuple[str, ...]:
    """One stop string or a list of them; null is none. Raises `InvalidRequest`."""
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list):
        raise InvalidRequest(type_mismatch(("stop",), "array", stop))
    if len(stops) > MOST_STOPS:
        raise InvalidRequest(f"Length of '/stop' must be <= {MOST_STOPS} not met")
    for index, one in enumerate(stops):
        if not isinstance(one, str):
            raise InvalidRequest(type_mismatch(("stop", str(index)), "string", one))
        if not 1 <= len(one) <= LONGEST_STOP:
            raise InvalidRequest(f"'/stop/{index}' must have from 1 to {LONGEST_STOP} characters")
    return tuple(stops)


def rejects_if_busy(options: Json) -> bool:
    """Whether a request's options say that it shall not wait for others."""
    return isinstance(options, dict) and options.get("rejectIfBusy") is True


def adapter_name(members: Mapping[str, Any], path: tuple[str, ...]) -> str | None:
    """The `lora` of an object at `path[:-1]`; None if it has none. Raises `InvalidRequest` if it is no string."""
    name = members.get(path[-1], "")
    if not isinstance(name, str):
        raise InvalidRequest(type_mismatch(path, "string", name))
    return name if path[-1] in members else None


def adapter_beside(query: Mapping[str, str], options: Json) -> str | None:
    """The adapter that a request names beside its inputs: the query comes before the options.

    Raises `InvalidRequest` for options that name one by no string, whether they are asked or not.
    """
    named = adapter_name(options, ("options", "lora")) if isinstance(options, dict) else None
    return query.get("lora", named)


def conversation(messages: Json, *, raw: bool = False) -> Prompt:
    """Messages that have a role and a content each. Raises `InvalidRequest` if there are none."""
    if not isinstance(messages, list):
        raise InvalidRequest(type_mismatch(("messages",), "array", messages))
    if not messages:
        raise InvalidRequest("Length of '/messages' must be >= 1 not met")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(type_mismatch(("messages", str(index)), "object", message))
    return Prompt(tuple(map(_message, messages)), raw)


def _is_raw(inputs: Mapping[str, Any]) -> bool:
    raw = inputs.get("raw")
    return raw is True or raw == "true"


def _message(message: Mapping[str, Any]) -> Message:
    calls = message.get("tool_calls")
    return Message(
        role=message["role"],
        content=message["content"],
        tool_calls=tuple(filter(None, map(_tool_call, calls))) if isinstance(calls, list) else (),
        name=_text_or_none(message.get("name")),
        tool_call_id=_text_or_none(message.get("tool_call_id")),
    )


def _tool_call(call: Json) -> ToolCall | None:
    """A call in the native form or in OpenAI's; None for anything else, which the schema does not forbid."""
    if not isinstance(call, dict):
        return None
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(function["name"], arguments, _text_or_none(call.get("id")))


def _text_or_none(value: Json) -> str | None:
    return value if isinstance(value, str) else None


def join_text_parts(inputs: Json, model: str) -> Json:
    """Turn contents that are lists of text parts into texts, as many clients send them."""
    if not isinstance(inputs, dict) or not isinstance(inputs.get("messages"), list):
        return inputs
    messages = [
        {**message, "content": _joined(message["content"], f"/messages/{index}/content", model)}
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        else message
        for index, message in enumerate(inputs["messages"])
    ]
    return {**inputs, "messages": messages}


def _joined(parts: list[Any], path: str, model: str) -> Json:
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in TEXT_PARTS:
            raise InvalidRequest(
                f"'{path}/{index}' of type {kind[:32]!r} is not supported, {model} is a text-only model"
            )
    texts = [part[part["type"]] for part in parts if _is_text_part(part)]
    return "\n".join(texts) if parts and len(texts) == len(parts) else parts


def _is_text_part(part: Json) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(part, dict) and kind in TEXT_PARTS and isinstance(part.get(str(kind)), str)
