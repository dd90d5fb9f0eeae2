"""The fuzzer's targets find nothing in the corpus nor in some thousand changes of it, and find what is broken."""

import random
from pathlib import Path

import pytest
from tests.fuzz import targets
from tests.fuzz.inputs import changed, seeds, simple_mutation
from tests.fuzz.targets import ALL, Finding
from tests.registry.peft_folder import PeftFolder

from gemlora.registry.safetensors_header import TensorEntry, read_header

CHANGES = 2000


@pytest.mark.parametrize("target", ALL)
def test_no_finding_in_the_corpus_and_changes_of_it(target: str, tmp_path: Path) -> None:
    choice = random.Random(3)
    inputs = seeds(target)
    mutate = simple_mutation(choice)

    accepted = [ALL[target](content, tmp_path) for content in inputs]
    changes = [changed(target, choice.choice(inputs), mutate, choice) for _ in range(CHANGES)]
    accepted_changes = [ALL[target](content, tmp_path) for content in changes]

    assert set(accepted) == set(accepted_changes) == {True, False}


def test_a_header_read_otherwise_than_by_the_library_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def shifted(path: Path) -> tuple[TensorEntry, ...]:
        first, *others = read_header(path)
        return (TensorEntry(first.name, first.dtype, first.shape, first.offset + 1, first.size), *others)

    content = PeftFolder().write(tmp_path / "peft") / "adapter_model.safetensors"
    monkeypatch.setattr(targets, "read_header", shifted)
    with pytest.raises(Finding, match="otherwise"):
        targets.header(content.read_bytes(), tmp_path)
