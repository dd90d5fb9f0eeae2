"""What is fuzzed: bytes and a folder for a file go in, and any exception but a refusal is a finding.

Whatever ours accepts, the `safetensors` library must read to the same names, shapes and bytes, and Python's own JSON
reader and PEFT's own matching must agree with what our reader of configs says.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors
from tests.registry.peft_folder import BASE, LIMITS

from gemlora.errors import AdapterInvalid
from gemlora.registry.peft_config import LoraConfig, read_config
from gemlora.registry.safetensors_header import TensorEntry, read_header
from gemlora.registry.tensor_names import EMBEDDING, HEAD, ModuleNames, Target
from gemlora.registry.validation import check_adapter
from gemlora.storage.manifest import AdapterManifest

LENGTH_BYTES = 4
"""An input of `adapter` is the length of the config, the config and the weights."""
NAMES = ModuleNames("model.")
TARGETS = [Target(layer, module) for layer in range(BASE.layers) for module in BASE.modules]
TARGETS += [Target(None, EMBEDDING), Target(None, HEAD)]
LONGEST_REASON = 2000


class Finding(AssertionError):
    """Ours and theirs disagree, or a reason is not fit for an answer."""


def header(content: bytes, folder: Path) -> bool:
    """A weights file by itself. Returns whether it is accepted."""
    path = _written(folder, content)
    try:
        entries = read_header(path)
    except AdapterInvalid as refusal:
        _check_reason(refusal)
        return False
    _compare(content, entries)
    return True


def config(content: bytes, _folder: Path) -> bool:
    """A config by itself. Returns whether it is accepted."""
    try:
        read = read_config(content)
    except AdapterInvalid as refusal:
        _check_reason(refusal)
        return False
    theirs = json.loads(content)
    for target in TARGETS:
        name = NAMES.of(target)
        scale = read.scale_of(name)
        if read.rank_of(name) < 1 or not math.isfinite(scale) or scale == 0:
            raise Finding(f"{name} has rank {read.rank_of(name)} and scale {scale}")
        read.has_ambiguous_alpha(name)
        _compare_target(read, theirs, target)
    return True


def adapter(content: bytes, folder: Path) -> bool:
    """Both files against a base. Returns whether they are accepted."""
    length = int.from_bytes(content[:LENGTH_BYTES], "little") % max(len(content), 1)
    config_text, weights = content[LENGTH_BYTES:][:length], content[LENGTH_BYTES:][length:]
    path = _written(folder, weights)
    try:
        checked = check_adapter(read_config(config_text), path, BASE, LIMITS, "0" * 64)
    except AdapterInvalid as refusal:
        _check_reason(refusal)
        return False
    entries = read_header(path)
    _compare(weights, entries)
    if sorted(_claimed(checked.manifest)) != sorted(entry.name for entry in entries):
        raise Finding("the manifest does not name exactly the file's tensors")
    if AdapterManifest.from_json(checked.manifest.to_json()) != checked.manifest:
        raise Finding("the manifest changes when it is written and read")
    return True


ALL: dict[str, Callable[[bytes, Path], bool]] = {"header": header, "config": config, "adapter": adapter}


def joined(config_text: bytes, weights: bytes) -> bytes:
    """An input of `adapter`."""
    return len(config_text).to_bytes(LENGTH_BYTES, "little") + config_text + weights


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(content)
    return path


def _check_reason(refusal: AdapterInvalid) -> None:
    text = str(refusal)
    text.encode()
    if not text.startswith(("adapter_config.json", "adapter_model.safetensors")) or len(text) > LONGEST_REASON:
        raise Finding(f"not a reason: {text[:200]!r}")


def _compare(content: bytes, entries: tuple[TensorEntry, ...]) -> None:
    theirs: dict[str, dict[str, Any]] = dict(safetensors.deserialize(content))
    if theirs.keys() != {entry.name for entry in entries}:
        raise Finding(f"the library reads {sorted(theirs)}")
    for entry in entries:
        tensor = theirs[entry.name]
        ours = (entry.dtype, list(entry.shape), content[entry.offset :][: entry.size])
        if ours != (tensor["dtype"], list(tensor["shape"]), bytes(tensor["data"])):
            raise Finding(f"the library reads {entry.name} otherwise")


def _compare_target(read: LoraConfig, theirs: dict[str, Any], target: Target) -> None:
    """As PEFT's `check_target_module_exists`, where no expression may keep Python's `re` busy."""
    targets, excluded = theirs.get("target_modules"), theirs.get("exclude_modules") or []
    if not isinstance(targets, list) or not isinstance(excluded, list):
        return
    name = NAMES.of(target)
    expected = _peft_covers(SimpleNamespace(**{"layers_to_transform": None} | theirs), targets, excluded, name)
    if read.covers(name, target.layer) != expected:
        raise Finding(f"PEFT says {expected} for {name}")


def _peft_covers(config: SimpleNamespace, targets: list[str], excluded: list[str], name: str) -> bool:
    if name in excluded or any(name.endswith(f".{entry}") for entry in excluded):
        return False
    if name in targets:
        return True
    found = any(name.endswith(f".{entry}") for entry in targets)
    layers = config.layers_to_transform
    if not found or layers is None or layers == []:
        return found
    match = re.match(r".*?\.[^.]*\.(?P<index>\d+)\.", name)
    if match is None:
        return False
    index = int(match["index"])
    return index == layers if isinstance(layers, int) else index in layers


def _claimed(manifest: AdapterManifest) -> Iterator[str]:
    for pair in (*manifest.modules, manifest.embedding, manifest.head):
        if pair is not None:
            yield from (tensor.name for tensor in (pair.a, pair.b, pair.magnitude) if tensor is not None)
    yield from (copy.tensor.name for copy in manifest.copies)
