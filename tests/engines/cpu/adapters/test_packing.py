"""What packing computes from the served base: DoRA's norms, and whether saved copies are copies of it."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.adapters import register, safetensors_tensors
from tests.served_base import CONFIG, Base, loader, random_base

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.weights.quantization import spread_rows
from gemlora.errors import AdapterInvalid
from gemlora.kernels import Matrix
from gemlora.kernels.lora import from_panels
from gemlora.storage.manifest import AdapterManifest, BaseCopy, EmbeddingLora, HeadLora, LoraModule, Tensor

RANK, SCALE = 3, 1.5


def matrix_of(base: Base, name: str) -> torch.Tensor:
    return torch.from_numpy(base.matrix(name).dequantised().copy())


def with_int8(base: Base, *names: str) -> Base:
    """The base with some matrices quantised, so that its values are not the original's."""
    matrices = dict(base.matrices)
    for name in names:
        weights = matrices[name].dequantised()
        rows = spread_rows(weights)
        matrices[name] = Matrix.from_spread(rows.q, rows.scales, weights.shape[1])
    return replace(base, quantize="int8", matrices=matrices)


def write(folder: Path, tensors: dict[str, torch.Tensor], make: Any) -> AdapterRef:
    """An adapter of these tensors; `make` turns their places into the parts of a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "adapter_model.safetensors"
    save_file(tensors, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return register(folder, weights, AdapterManifest(digest, **make(safetensors_tensors(weights))))


def pair(outputs: int, inputs: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "a": torch.randn(RANK, inputs, generator=generator),
        "b": torch.randn(outputs, RANK, generator=generator),
        "magnitude": torch.rand(outputs, generator=generator) + 0.5,
    }


def module(places: dict[str, Tensor]) -> dict[str, Any]:
    return {"modules": (LoraModule(1, "up_proj", RANK, SCALE, **places),)}


def head(places: dict[str, Tensor]) -> dict[str, Any]:
    return {"modules": (), "head": HeadLora(RANK, SCALE, **places)}


def embedding(places: dict[str, Tensor]) -> dict[str, Any]:
    return {"modules": (), "embedding": EmbeddingLora(RANK, SCALE, **places)}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_doras_norms_are_those_of_the_served_base_and_adapter(
    tmp_path: Path, tied: bool, quantised: bool, dtype: Any
) -> None:
    base = random_base(tied=tied)
    if quantised:
        base = with_int8(base, *base.matrices)
    vocabulary, hidden = CONFIG.vocabulary, CONFIG.hidden
    cases = {
        "layers.1.up_proj": (module, *CONFIG.modules["up_proj"]),
        "embedding" if tied else "head": (head, vocabulary, hidden),
        "the input side": (embedding, hidden, vocabulary),
    }
    for name, (make, outputs, inputs) in cases.items():
        parts = pair(outputs, inputs)
        loaded = loader(tmp_path / "cache", base, dtype).load(write(tmp_path / name, parts, make))
        (found,) = [*loaded.pairs.values(), *(each for each in (loaded.embedding, loaded.head) if each)]
        weights = matrix_of(base, "embedding").T if make is embedding else matrix_of(base, name)
        a = found.a.T if make is embedding else from_panels(found.a, inputs)
        b = from_panels(found.b, outputs).T
        assert np.allclose(a.astype(np.float32), parts["a"], atol=0.02)
        assert np.allclose(b.astype(np.float32), parts["b"], atol=0.02)
        changed = weights.double().numpy() + SCALE * b.astype(np.float64) @ a.astype(np.float64)
        expected = parts["magnitude"].double().numpy() / np.linalg.norm(changed, axis=1)
        assert found.output_scale is not None
        np.testing.assert_allclose(found.output_scale, expected, rtol=1e-6)


def test_a_norm_of_zero_is_refused(tmp_path: Path) -> None:
    base = random_base()
    weights = base.matrix("layers.1.up_proj").dequantised().copy()
    weights[7] = 0
    base = replace(base, matrices={**base.matrices, "layers.1.up_proj": Matrix.from_floats(weights)})
    parts = pair(*CONFIG.modules["up_proj"])
    parts["b"][7] = 0
    with pytest.raises(AdapterInvalid, match=r"layers\.1\.up_proj: the magnitude over the norm .* is not finite"):
        loader(tmp_path / "cache", base).load(write(tmp_path, parts, module))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_magnitude_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    parts = pair(*CONFIG.modules["up_proj"])
    parts["magnitude"][3] = value
    with pytest.raises(AdapterInvalid, match=r"layers\.1\.up_proj: the magnitude"):
        loader(tmp_path / "cache", random_base()).load(write(tmp_path, parts, module))


def load_with_copy(folder: Path, base: Base, name: str, copy: torch.Tensor) -> None:
    """Load an adapter of the head that was saved beside a copy of a matrix."""
    tensors = {**pair(CONFIG.vocabulary, base.config.hidden), f"{name}.base_layer.weight": copy.contiguous()}

    def make(places: dict[str, Tensor]) -> dict[str, Any]:
        saved = BaseCopy(name, places.pop(f"{name}.base_layer.weight"))
        return {**head(places), "copies": (saved,)}

    loader(folder / "cache", base).load(write(folder, tensors, make))


@pytest.mark.parametrize("served", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("saved", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_copy_of_the_base_in_any_type_is_accepted(tmp_path: Path, served: torch.dtype, saved: torch.dtype) -> None:
    original = matrix_of(random_base(), "embedding")
    original[0] *= 1e-6
    as_served = original.to(served)
    base = random_base()
    packed = as_served.view(torch.int16).numpy().view("bfloat16") if served == torch.bfloat16 else as_served.numpy()
    base = replace(base, matrices={**base.matrices, "embedding": Matrix.from_floats(packed)})
    load_with_copy(tmp_path, base, "lm_head", original.to(saved))


@pytest.mark.parametrize("change", ["one value", "not a number", "a little everywhere"])
def test_a_changed_copy_of_an_unquantised_base_is_refused_by_name(tmp_path: Path, change: str) -> None:
    base = random_base()
    copy = matrix_of(base, "embedding")
    if change == "one value":
        copy[5, 6] = torch.nextafter(copy[5, 6], torch.tensor(9.0))
    elif change == "not a number":
        copy[5, 6] = float("nan")
    else:
        copy *= 1.0001
    with pytest.raises(AdapterInvalid, match=r"lm_head\.base_layer\.weight: .* a changed embedding or head"):
        load_with_copy(tmp_path, base, "lm_head", copy)


def test_each_copy_is_compared_with_its_own_matrix(tmp_path: Path) -> None:
    untied = random_base(tied=False)
    for name, matrix, other in (("embed_tokens", "embedding", "head"), ("lm_head", "head", "embedding")):
        load_with_copy(tmp_path / name, untied, name, matrix_of(untied, matrix))
        with pytest.raises(AdapterInvalid, match=name):
            load_with_copy(tmp_path / f"{name} wrong", untied, name, matrix_of(untied, other))


def test_a_quantised_base_accepts_copies_of_its_original_and_refuses_others(tmp_path: Path) -> None:
    original = matrix_of(random_base(), "embedding")
    base = with_int8(random_base(), "embedding")
    load_with_copy(tmp_path / "a", base, "lm_head", original)
    load_with_copy(tmp_path / "b", base, "lm_head", original.bfloat16())
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(2))
    with pytest.raises(AdapterInvalid, match=r"differs from the served base by 0\.0"):
        load_with_copy(tmp_path / "c", base, "lm_head", original + 0.05 * noise)
    with pytest.raises(AdapterInvalid, match="differs"):
        load_with_copy(tmp_path / "d", base, "lm_head", original.index_fill(0, torch.tensor([1]), float("inf")))


def test_a_base_whose_checkpoint_was_quantised_more_accepts_copies_of_what_that_was_made_from(tmp_path: Path) -> None:
    original = matrix_of(random_base(), "embedding")
    step = 0.25
    rounded = replace(
        random_base(), matrices={"embedding": Matrix.from_floats((original / step).round().numpy() * step)}
    )
    base = with_int8(rounded, "embedding")
    with pytest.raises(AdapterInvalid, match="differs from the served base"):
        load_with_copy(tmp_path / "a", base, "lm_head", original)
    base = replace(base, steps=step**2 * original.numel())
    load_with_copy(tmp_path / "b", base, "lm_head", original)
    with pytest.raises(AdapterInvalid, match="differs from the served base"):
        load_with_copy(tmp_path / "c", base, "lm_head", original + step * torch.ones_like(original))


@pytest.mark.parametrize("columns", [24, 128, 200])
def test_what_spread_weights_may_differ_by_is_twice_what_rounding_leaves(tmp_path: Path, columns: int) -> None:
    """The steps are coarse, so that little else decides. Padding makes the estimate of the error a little too large."""
    random = np.random.default_rng(3)
    original = random.normal(size=(CONFIG.vocabulary, columns)).astype(np.float32)
    rows = spread_rows(original)
    coarse = np.rint(rows.q / np.float32(16)).astype(np.int8)
    matrix = Matrix.from_spread(coarse, rows.scales * np.float16(16), columns)
    error = matrix.dequantised() - original
    base = random_base()
    base = replace(
        base, config=replace(CONFIG, hidden=columns), quantize="int8", matrices={**base.matrices, "embedding": matrix}
    )
    noise = random.normal(size=original.shape).astype(np.float32) * error.std()
    load_with_copy(tmp_path / "a", base, "lm_head", torch.from_numpy(original))
    load_with_copy(tmp_path / "b", base, "lm_head", torch.from_numpy(original + 1.5 * noise))
    with pytest.raises(AdapterInvalid, match="differs from the served base"):
        load_with_copy(tmp_path / "c", base, "lm_head", torch.from_numpy(original + 2.5 * noise))


@pytest.mark.parametrize(("name", "shape"), [("lm_head", (CONFIG.vocabulary - 1, CONFIG.hidden)), ("q_proj", None)])
def test_a_copy_of_something_else_is_refused(tmp_path: Path, name: str, shape: tuple[int, int] | None) -> None:
    copy = torch.zeros(shape or (CONFIG.vocabulary, CONFIG.hidden))
    with pytest.raises(AdapterInvalid, match=rf"{name}\.base_layer"):
        load_with_copy(tmp_path, random_base(), name, copy)
