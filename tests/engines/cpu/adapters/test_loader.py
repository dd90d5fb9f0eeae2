"""Adapters are read exactly or refused with a reason, and packed once."""

import dataclasses
import errno
import hashlib
import json
import logging
import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ml_dtypes import bfloat16
from msgspec.structs import replace
from tests.adapters import random_pairs, write_adapter
from tests.served_base import CONFIG, Base, loader

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters import AdapterLoader, PackedFiles
from gemlora.engines.cpu.adapters import loader as loader_module
from gemlora.errors import AdapterInvalid
from gemlora.kernels import LoraWeights
from gemlora.kernels.lora import SCALED_BYTES, from_panels, in_scaled_bytes
from gemlora.storage.manifest import AdapterManifest, LoraModule


def write(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> AdapterRef:
    return write_adapter(folder, random_pairs(CONFIG.modules, len(CONFIG.layers), rank=3, seed=seed, dtype=dtype))


def with_manifest(ref: AdapterRef, content: bytes) -> AdapterRef:
    """The adapter with another manifest, as if the registry had accepted that."""
    Path(ref.manifest).write_bytes(content)
    return replace(ref, manifest_digest=hashlib.sha256(content).hexdigest())


def changed(ref: AdapterRef, change: Callable[[LoraModule], LoraModule]) -> AdapterRef:
    manifest = AdapterManifest.read(Path(ref.manifest))
    first, *others = manifest.modules
    return with_manifest(ref, replace(manifest, modules=(change(first), *others)).to_json())


@pytest.fixture
def fresh(tmp_path: Path) -> AdapterLoader:
    """A loader with an empty cache, beside a base that is not quantised."""
    return loader(tmp_path / "cache")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_beside_an_unquantised_base_an_adapter_keeps_its_values_and_dtype(
    fresh: AdapterLoader, tmp_path: Path, dtype: torch.dtype
) -> None:
    pairs = random_pairs(CONFIG.modules, 2, rank=3, seed=1, dtype=dtype)
    loaded = fresh.load(write_adapter(tmp_path, pairs))
    assert loaded.pairs.keys() == pairs.keys()
    for key, (a, b, inputs, outputs, scale, output_scale) in loaded.pairs.items():
        assert (outputs, inputs) == CONFIG.modules[key[1]]
        assert str(a.dtype) == str(b.dtype) == str(dtype).removeprefix("torch.")
        assert np.array_equal(from_panels(a, inputs).astype(np.float32), pairs[key].a.float().numpy())
        assert np.array_equal(from_panels(b, outputs).astype(np.float32), pairs[key].b.float().numpy().T)
        assert a.flags.c_contiguous
        assert b.flags.c_contiguous
        assert a.ctypes.data % 64 == b.ctypes.data % 64 == 0
        assert not a.flags.writeable
        assert scale == pairs[key].scale
        assert output_scale is None


def test_beside_a_quantised_base_an_adapter_becomes_int8(tmp_path: Path) -> None:
    pairs = random_pairs(CONFIG.modules, 2, rank=3, seed=1)
    loaded = loader(tmp_path / "cache", Base(quantize="int8")).load(write_adapter(tmp_path, pairs))
    for key, pair in loaded.pairs.items():
        a, b = pairs[key].a.numpy(), pairs[key].b.numpy().T
        for packed, original in ((pair.a, a), (pair.b, b)):
            assert packed.tobytes() == in_scaled_bytes(original).tobytes()
            error = from_panels(packed, original.shape[1]) - original
            assert np.linalg.norm(error) < 0.007 * np.linalg.norm(original)


def test_modules_lie_in_the_order_of_their_use_with_a_and_b_side_by_side(fresh: AdapterLoader, tmp_path: Path) -> None:
    pairs = random_pairs(CONFIG.modules, 2, rank=3, seed=0, dtype=torch.bfloat16)
    loaded = fresh.load(write_adapter(tmp_path, dict(sorted(pairs.items()))))
    assert list(loaded.pairs) == [(layer, module) for layer in (0, 1) for module in CONFIG.modules]
    arrays = [array for pair in loaded.pairs.values() for array in (pair.a, pair.b)]
    ends = [array.ctypes.data + array.nbytes for array in arrays]
    assert all(0 <= array.ctypes.data - end < 64 for array, end in zip(arrays[1:], ends, strict=False))


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", np.float32), ("bfloat16", bfloat16), ("int8", SCALED_BYTES)]
)
def test_the_setting_overrules_the_adapters_dtype(tmp_path: Path, dtype: Any, expected: Any) -> None:
    for quantize in ("none", "int8"):
        loaded = loader(tmp_path / "cache", Base(quantize=quantize), dtype).load(write(tmp_path, torch.float16))
        assert {pair.a.dtype for pair in loaded.pairs.values()} == {np.dtype(expected)}


def test_the_announced_size_is_what_the_adapter_takes(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    assert 0 <= fresh.size(ref) - fresh.load(ref).size < 64 * 2 * 14


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: replace(m, module="lm_head"), "layers.0.lm_head: the served base has no such linear module"),
        (lambda m: replace(m, layer=2), "layers.2.q_proj: the served base has only 2 layers"),
        (lambda m: replace(m, layer=-1), "layers.-1.q_proj: the served base has only 2 layers"),
        (lambda m: replace(m, layer=1), "layers.1.q_proj is named twice"),
        (lambda m: replace(m, scale=float("nan")), "the manifest cannot be read"),
        (lambda m: replace(m, scale=1e39), "layers.0.q_proj: the scale is not finite as float32"),
        (lambda m: replace(m, rank=2), r"layers.0.q_proj, A: shape \(3, 24\) does not fit.*expected \(2, 24\)"),
        (lambda m: replace(m, a=replace(m.a, dtype="F64")), "layers.0.q_proj, A: dtype F64 is not one of"),
        (lambda m: replace(m, b=replace(m.b, size=8)), r"layers.0.q_proj, B: 8 bytes do not hold shape \(32, 3\)"),
        (lambda m: replace(m, b=replace(m.b, offset=10**6)), "0.q_proj.lora_B lies outside the weights file"),
    ],
)
def test_a_manifest_that_does_not_fit_the_base_is_refused(
    fresh: AdapterLoader, tmp_path: Path, change: Callable[[LoraModule], LoraModule], reason: str
) -> None:
    ref = write(tmp_path)
    with pytest.raises(AdapterInvalid, match=reason):
        fresh.load(changed(ref, change))


def test_an_adapter_of_another_base_is_refused_with_both_shapes(tmp_path: Path) -> None:
    ref = write(tmp_path)
    with pytest.raises(AdapterInvalid, match=r"shape \(3, 24\) does not fit the served base, expected \(3, 32\)"):
        loader(tmp_path / "cache", Base(dataclasses.replace(CONFIG, hidden=32))).load(ref)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(fresh: AdapterLoader, tmp_path: Path, value: float) -> None:
    pairs = random_pairs(CONFIG.modules, 2, rank=3, seed=1)
    pairs[1, "v_proj"].b[5, 2] = value
    with pytest.raises(AdapterInvalid, match=r"layers\.1\.v_proj, B: not all values are finite"):
        fresh.load(write_adapter(tmp_path, pairs))


def test_values_beyond_the_type_that_they_shall_have_are_refused(fresh: AdapterLoader, tmp_path: Path) -> None:
    pairs = random_pairs(CONFIG.modules, 2, rank=3, seed=1)
    pairs[0, "q_proj"].b[0, 0] = pairs[0, "q_proj"].a[0, 0] = torch.finfo(torch.float32).max
    ref = write_adapter(tmp_path, pairs)
    fresh.load(ref)
    with pytest.raises(AdapterInvalid, match=r"layers\.0\.q_proj, A: not all values are finite as bfloat16"):
        loader(tmp_path / "cache", Base(), "bfloat16").load(ref)


def test_an_adapter_without_modules_is_refused(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    with pytest.raises(AdapterInvalid, match="changes no module"):
        fresh.load(with_manifest(ref, AdapterManifest("0" * 64, ()).to_json()))


def test_changed_bytes_of_the_weights_are_noticed(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    data = bytearray(Path(ref.weights).read_bytes())
    data[-1] ^= 1
    Path(ref.weights).write_bytes(data)
    with pytest.raises(AdapterInvalid, match="changed after registration"):
        fresh.load(ref)


@pytest.mark.parametrize("content", ["", "[]", '{"weights_digest": ""}', '{"modules": [{}]}'])
def test_what_is_no_manifest_is_refused(fresh: AdapterLoader, tmp_path: Path, content: str) -> None:
    with pytest.raises(AdapterInvalid, match="manifest cannot be read"):
        fresh.load(with_manifest(write(tmp_path), content.encode()))


def test_a_manifest_that_says_more_than_is_understood_is_refused(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    manifest = json.loads(Path(ref.manifest).read_bytes())
    for part in (manifest, manifest["modules"][0], manifest["modules"][0]["a"]):
        part["later"] = 1
        with pytest.raises(AdapterInvalid, match="manifest cannot be read: Object contains unknown field `later`"):
            fresh.load(with_manifest(ref, json.dumps(manifest).encode()))
        del part["later"]


def test_a_missing_manifest_is_refused(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    Path(ref.manifest).unlink()
    with pytest.raises(AdapterInvalid, match="manifest cannot be read"):
        fresh.load(ref)


def test_a_manifest_that_was_changed_is_refused(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    changed(ref, lambda module: replace(module, scale=3.0))
    for method in (fresh.load, fresh.size):
        with pytest.raises(AdapterInvalid, match="manifest was changed after registration"):
            method(ref)


def test_a_manifest_is_understood_once_and_compared_with_its_digest_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    understood = []
    parse = loader_module.parse_manifest
    monkeypatch.setattr(loader_module, "parse_manifest", lambda *args: understood.append(args) or parse(*args))
    fresh = loader(tmp_path / "cache")
    ref = write(tmp_path)
    fresh.size(ref)
    fresh.load(ref)
    assert fresh.open(ref) is not None
    assert len(understood) == 1
    changed(ref, lambda module: replace(module, scale=3.0))
    for method in (fresh.size, fresh.open):
        with pytest.raises(AdapterInvalid, match="manifest was changed after registration"):
            method(ref)


def test_adapters_that_differ_in_their_weights_alone_are_laid_out_once(
    fresh: AdapterLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out = []
    lay_out = loader_module.adapter_layout
    monkeypatch.setattr(loader_module, "adapter_layout", lambda *args: laid_out.append(args) or lay_out(*args))
    first, second = (write(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second")))
    a, b = (fresh.load(ref).pairs[0, "q_proj"].a for ref in (first, second))
    assert len(laid_out) == 1
    assert not np.array_equal(a, b)
    other = changed(first, lambda module: replace(module, scale=3.0))
    assert fresh.load(other).pairs[0, "q_proj"].scale == 3.0
    assert len(laid_out) == 2


def test_missing_weights_are_refused(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    Path(ref.weights).unlink()
    with pytest.raises(AdapterInvalid, match="cannot be read: No such file"):
        fresh.load(ref)


def packed(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


def same(one: LoraWeights, other: LoraWeights) -> bool:
    return one.pairs.keys() == other.pairs.keys() and all(
        np.array_equal(pair.a, other.pairs[key].a) and np.array_equal(pair.b, other.pairs[key].b)
        for key, pair in one.pairs.items()
    )


def test_an_adapter_is_packed_once_and_then_mapped(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    first = fresh.load(ref)
    (file,) = packed(tmp_path / "cache")
    assert file.parent.name == ref.digest
    Path(ref.weights).unlink()
    second = fresh.load(ref)
    assert same(first, second)
    assert str(file) in Path("/proc/self/maps").read_text()


def test_what_decides_the_arrays_decides_the_file(tmp_path: Path) -> None:
    ref = write(tmp_path)
    cache = tmp_path / "cache"
    loaders = [
        loader(cache),
        loader(cache, dtype="bfloat16"),
        loader(cache, Base(digest="1" * 64)),
        loader(cache, Base(quantize="int8")),
    ]
    for one in [*loaders, *loaders]:
        one.load(ref)
    loaders[0].load(changed(ref, lambda module: replace(module, scale=3.0)))
    assert len(packed(cache)) == 5


def test_the_scale_is_the_manifests(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    fresh.load(ref)
    assert fresh.load(changed(ref, lambda module: replace(module, scale=3.0))).pairs[0, "q_proj"].scale == 3.0


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_without_a_writable_cache_an_adapter_is_served_from_memory(
    fresh: AdapterLoader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: int,
) -> None:
    ref = write(tmp_path)
    expected = loader(tmp_path / "other").load(ref)

    def fail(*_: object) -> None:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(PackedFiles, "write", fail)
    with caplog.at_level(logging.CRITICAL):
        loaded = fresh.load(ref)
    assert same(loaded, expected)
    assert packed(tmp_path / "cache") == []
    assert not loaded.pairs[0, "q_proj"].a.flags.writeable


def test_without_a_cache_at_all_an_adapter_is_served_from_memory(tmp_path: Path) -> None:
    loaded = loader(tmp_path / "cache", capacity=0).load(write(tmp_path))
    assert same(loaded, loader(tmp_path / "other").load(write(tmp_path)))
    assert not (tmp_path / "cache").exists()


def test_what_was_discarded_is_packed_again(fresh: AdapterLoader, tmp_path: Path) -> None:
    ref = write(tmp_path)
    first = fresh.load(ref)
    fresh.discard(ref.digest)
    assert packed(tmp_path / "cache") == []
    assert same(first, fresh.load(ref))
    assert len(packed(tmp_path / "cache")) == 1


@pytest.mark.parametrize("capacity", [0, 1 << 30])
def test_dropping_an_adapter_returns_its_memory(tmp_path: Path, capacity: int) -> None:
    loaded = loader(tmp_path / "cache", capacity=capacity).load(write(tmp_path))
    owners = [weakref.ref(owner(matrix)) for pair in loaded.pairs.values() for matrix in (pair.a, pair.b)]
    assert {type(found()) for found in owners} == {mmap.mmap}
    assert len({id(found()) for found in owners}) == 1
    del loaded
    assert {found() for found in owners} == {None}


def owner(array: Any) -> Any:
    """The object that owns an array's memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array
