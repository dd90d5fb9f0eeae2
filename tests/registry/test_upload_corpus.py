"""Each upload of the corpus gets its verdict, and what is accepted the library reads to the same bytes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.registry.peft_folder import BASE, LIMITS
from tests.registry.upload_corpus import UploadCase, cases

from gemlora.errors import AdapterInvalid
from gemlora.registry.safetensors_header import read_header
from gemlora.registry.validation import check_adapter, read_config
from gemlora.storage.manifest import AdapterManifest

CASES = cases()
ACCEPTED = [case for case in CASES if case.accepted]
REFUSED = [case for case in CASES if not case.accepted]


def name_of(case: UploadCase) -> str:
    return case.name.encode("unicode_escape").decode()


def claimed(manifest: AdapterManifest) -> Iterator[str]:
    """The names of the tensors that a manifest uses."""
    for pair in (*manifest.modules, manifest.embedding, manifest.head):
        if pair is not None:
            yield from (tensor.name for tensor in (pair.a, pair.b, pair.magnitude) if tensor is not None)
    yield from (copy.tensor.name for copy in manifest.copies)


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 300


@pytest.mark.parametrize("case", ACCEPTED, ids=name_of)
def test_what_is_right_is_accepted_and_read_as_the_library_reads_it(case: UploadCase, tmp_path: Path) -> None:
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(case.weights)

    checked = check_adapter(read_config(case.config), weights, BASE, LIMITS)

    with safe_open(weights, "pt") as library:
        assert sorted(library.keys()) == sorted(claimed(checked.manifest))
    _assert_read_alike(weights, case.weights)
    assert checked.warnings == ()


@pytest.mark.parametrize("case", REFUSED, ids=name_of)
def test_what_is_wrong_is_refused_with_the_reason(case: UploadCase, tmp_path: Path) -> None:
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(case.weights)

    with pytest.raises(AdapterInvalid, match=case.reason) as refusal:
        check_adapter(read_config(case.config), weights, BASE, LIMITS)

    text = str(refusal.value)
    assert text.startswith(("adapter_config.json", "adapter_model.safetensors"))
    assert len(text) < 800
    assert text.isprintable()
    json.dumps(text).encode()


def _assert_read_alike(path: Path, content: bytes) -> None:
    with safe_open(path, "pt") as library:
        for entry in read_header(path):
            tensor = library.get_tensor(entry.name)
            assert tuple(tensor.shape) == entry.shape
            raw_bytes = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            assert content[entry.offset : entry.offset + entry.size] == raw_bytes
