"""F6: whatever is damaged on disk, no wrong weights are served: it is noticed, or made anew from what is whole."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
import torch
from tests.adapters import random_pairs, write_adapter
from tests.served_base import CONFIG, loader

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters import AdapterLoader
from gemlora.errors import AdapterInvalid
from gemlora.kernels import LoraWeights

FLIPS = 600
"""Of each file."""


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL):
        yield


@pytest.fixture
def ref(tmp_path: Path) -> AdapterRef:
    return tiny(tmp_path / "adapter", seed=1)


def tiny(folder: Path, seed: int) -> AdapterRef:
    modules = {"q_proj": CONFIG.modules["q_proj"]}
    return write_adapter(folder, random_pairs(modules, 2, rank=1, seed=seed, dtype=torch.bfloat16))


def fingerprint(weights: LoraWeights) -> bytes:
    return b"".join(np.asarray(m).tobytes() for _, pair in sorted(weights.pairs.items()) for m in (pair.a, pair.b))


def outcome(one: AdapterLoader, ref: AdapterRef) -> bytes | None:
    """What would be served; None if it is refused."""
    try:
        return fingerprint(one.load(ref))
    except AdapterInvalid:
        return None


def flips(content: bytes, count: int) -> Iterator[bytes]:
    """The content with one bit changed: each of the first and last 64 bytes and others all over it."""
    random = Random(6)
    ends = [*range(min(64, len(content))), *range(max(0, len(content) - 64), len(content))]
    places = [*ends, *(random.randrange(len(content)) for _ in range(count - len(ends)))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.randrange(8)
        yield bytes(damaged)


@pytest.mark.parametrize("part", ["manifest", "weights"])
def test_every_flipped_bit_of_the_originals_is_noticed(ref: AdapterRef, tmp_path: Path, part: str) -> None:
    path = Path(getattr(ref, part))
    one = loader(tmp_path / "cache", capacity=0)
    whole = path.read_bytes()
    assert outcome(one, ref) is not None
    for damaged in flips(whole, FLIPS):
        path.write_bytes(damaged)
        assert outcome(one, ref) is None
    path.write_bytes(whole)
    assert outcome(one, ref) is not None


def test_every_flipped_bit_of_a_packed_file_is_noticed_and_mended(ref: AdapterRef, tmp_path: Path) -> None:
    one = loader(tmp_path / "cache")
    expected = outcome(one, ref)
    (path,) = (tmp_path / "cache").glob("*/*")
    whole = path.read_bytes()
    for damaged in flips(whole, FLIPS):
        path.write_bytes(damaged)
        assert outcome(one, ref) == expected
        assert path.read_bytes() == whole


def test_a_flipped_bit_of_a_packed_file_without_whole_originals_serves_nothing(ref: AdapterRef, tmp_path: Path) -> None:
    one = loader(tmp_path / "cache")
    outcome(one, ref)
    (path,) = (tmp_path / "cache").glob("*/*")
    weights = Path(ref.weights)
    weights.write_bytes(next(flips(weights.read_bytes(), 200)))
    for damaged in flips(path.read_bytes(), 200):
        path.write_bytes(damaged)
        assert outcome(one, ref) is None


@pytest.mark.parametrize("part", ["manifest", "weights"])
def test_every_truncation_of_the_originals_is_noticed(ref: AdapterRef, tmp_path: Path, part: str) -> None:
    path = Path(getattr(ref, part))
    whole = path.read_bytes()
    one = loader(tmp_path / "cache", capacity=0)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert outcome(one, ref) is None
    path.write_bytes(whole + b"\0")
    assert outcome(one, ref) is None


def test_every_truncation_of_a_packed_file_is_mended(ref: AdapterRef, tmp_path: Path) -> None:
    one = loader(tmp_path / "cache")
    expected = outcome(one, ref)
    (path,) = (tmp_path / "cache").glob("*/*")
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 7), len(whole) + 1):
        path.write_bytes(whole[:length].ljust(length, b"\0"))
        assert outcome(one, ref) == expected
        assert path.read_bytes() == whole


@pytest.mark.parametrize("parts", [("weights",), ("manifest",), ("manifest", "weights")])
def test_the_files_of_two_adapters_swapped_are_refused(ref: AdapterRef, tmp_path: Path, parts: tuple[str, ...]) -> None:
    other = tiny(tmp_path / "other", seed=2)
    one = loader(tmp_path / "cache", capacity=0)
    for part in parts:
        shutil.move(getattr(ref, part), tmp_path / "between")
        shutil.move(getattr(other, part), getattr(ref, part))
        shutil.move(tmp_path / "between", getattr(other, part))
    assert outcome(one, ref) is None
    assert outcome(one, other) is None


def test_packed_files_of_two_adapters_swapped_are_mended(ref: AdapterRef, tmp_path: Path) -> None:
    other = tiny(tmp_path / "other", seed=2)
    one = loader(tmp_path / "cache")
    expected = outcome(one, ref), outcome(one, other)
    (first,) = (tmp_path / "cache" / ref.digest).iterdir()
    (second,) = (tmp_path / "cache" / other.digest).iterdir()
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert (outcome(one, ref), outcome(one, other)) == expected
    assert (first.read_bytes(), second.read_bytes()) == contents


def test_an_adapter_of_the_same_name_with_other_content_is_another_one(ref: AdapterRef, tmp_path: Path) -> None:
    one = loader(tmp_path / "cache")
    before = outcome(one, ref)
    again = tiny(tmp_path / "adapter", seed=3)
    assert again.weights == ref.weights
    assert outcome(one, again) not in (None, before)
    stale = msgspec.structs.replace(ref, manifest=again.manifest)
    assert outcome(one, stale) is None
