"""Where the fuzzer begins, and changes that keep a file's lengths true, so that they reach the later checks."""

import random
from collections.abc import Callable

from tests.fuzz.targets import LENGTH_BYTES, joined
from tests.registry.upload_corpus import cases

MAX_BYTES = 16384
"""Of an input; longer ones of the corpus are left out."""
HEADER_LENGTH_BYTES = 8

Mutate = Callable[[bytes], bytes]

TOKENS = (
    b"NaN", b"null", b"true", b"-1", b"0", b"1e999", b"99999999999999999999", b"[]", b"{}", b'""', b'"\\ud800"',
    b"\\u0000",
    b"lora_A", b"lora_B", b".weight", b".default", b"lora_magnitude_vector", b"lora_embedding_A", b"lora_embedding_B",
    b"lm_head", b"model.embed_tokens", b"base_layer", b"layers.0.", b"layers.2.", b"q_proj", b"v_proj", b"up_proj",
    b"language_model.", b"__metadata__", b"data_offsets", b"dtype", b"shape", b"F16", b"BF16", b"F32", b"I8",
    b"target_modules", b"exclude_modules", b"rank_pattern", b"alpha_pattern", b"layers_to_transform", b"use_dora",
    b"use_rslora", b"ensure_weight_tying", b"all-linear", b"init_lora_weights", b"pissa", b"bias", b"task_type",
)  # fmt: skip


def seeds(target: str) -> list[bytes]:
    """The corpus of uploads as inputs of a target, each once."""
    forms = {
        "header": lambda case: case.weights,
        "config": lambda case: case.config,
        "adapter": lambda case: joined(case.config, case.weights),
    }
    inputs = dict.fromkeys(map(forms[target], cases()))
    return [content for content in inputs if 0 < len(content) <= MAX_BYTES]


def changed(target: str, content: bytes, mutate: Mutate, choice: random.Random) -> bytes:
    """One more input made from another."""
    if target == "config" or choice.random() < 0.2:
        return mutate(content)
    if target == "header":
        return _changed_weights(content, mutate, choice)
    length = int.from_bytes(content[:LENGTH_BYTES], "little") % max(len(content), 1)
    config, weights = content[LENGTH_BYTES:][:length], content[LENGTH_BYTES:][length:]
    if choice.random() < 0.5:
        return joined(mutate(config or b"{}"), weights)
    return joined(config, _changed_weights(weights, mutate, choice))


def simple_mutation(choice: random.Random) -> Mutate:
    """A change without a fuzzer: bits, bytes, tokens, cuts and repetitions."""

    def mutate(content: bytes) -> bytes:
        place = choice.randrange(len(content) + 1)
        end = min(len(content), place + choice.choice((0, 1, 1, 2, 4, 8, 32)))
        piece = choice.choice((b"", bytes([choice.randrange(256)]), choice.choice(TOKENS), content[place:end] * 2))
        return content[:place] + piece + content[end:]

    return mutate


def _changed_weights(content: bytes, mutate: Mutate, choice: random.Random) -> bytes:
    """The header or the data changed, the header's length corrected."""
    length = int.from_bytes(content[:HEADER_LENGTH_BYTES], "little")
    header, data = content[HEADER_LENGTH_BYTES:][:length], content[HEADER_LENGTH_BYTES:][length:]
    if choice.random() < 0.8:
        header = mutate(header or b"{}")
    else:
        data = mutate(data or b"\0")
    return len(header).to_bytes(HEADER_LENGTH_BYTES, "little") + header + data
