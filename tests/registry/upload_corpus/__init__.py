"""Uploads with the verdict that each must get: odd ones that are right, and wrong or hostile ones."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from tests.registry.peft_folder import PeftFolder, config, raw, tensors
from tests.registry.upload_corpus import accepted, configs, files, magnitudes, pairs, texts, variants

CONFIG = json.dumps(config()).encode()
WEIGHTS = raw(tensors()).content


@dataclass(frozen=True)
class UploadCase:
    """Two files. `reason` is an expression that the refusal's text matches, None if they are accepted."""

    name: str
    config: bytes
    weights: bytes
    reason: str | None

    @property
    def accepted(self) -> bool:
        return self.reason is None


def cases() -> tuple[UploadCase, ...]:
    """All cases, each with a name of its own."""
    return tuple(itertools.chain(_accepted(), _refused()))


def _accepted() -> Iterator[UploadCase]:
    for name, folder in (accepted.ACCEPTED | magnitudes.ACCEPTED).items():
        yield _of_folder(f"accepted: {name}", folder, None)
    for name, content in texts.READABLE.items():
        yield UploadCase(f"accepted config: {name}", content, WEIGHTS, None)
    for name, content in files.READABLE.items():
        yield UploadCase(f"accepted weights: {name}", CONFIG, content, None)


def _refused() -> Iterator[UploadCase]:
    folders = (configs.KIND, configs.NUMBERS, configs.TARGETS, variants.VARIANTS, pairs.PAIRS, magnitudes.REFUSED)
    for group in folders:
        for name, (folder, reason) in group.items():
            yield _of_folder(name, folder, reason)
    for name, (content, reason) in texts.TEXTS.items():
        yield UploadCase(f"config: {name}", content, WEIGHTS, reason)
    for group in (files.STARTS, files.HEADERS, files.TENSORS):
        for name, (content, reason) in group.items():
            yield UploadCase(f"weights: {name}", CONFIG, content, reason)


def _of_folder(name: str, folder: PeftFolder, reason: str | None) -> UploadCase:
    return UploadCase(name, json.dumps(folder.config).encode(), raw(folder.tensors).content, reason)
