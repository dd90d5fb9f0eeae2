"""What is accepted computes what PEFT computes; everything else is refused with the tensor's or key's name."""

import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.registry.peft_folder import BASE, LAYERS, LIMITS, PeftFolder, config, tensor_name, tensors
from tests.registry.upload_corpus.changes import with_all_zero, with_config, with_value

from gemlora.errors import AdapterInvalid
from gemlora.registry.validation import CheckedAdapter, check_adapter, read_config

ALL = tuple(BASE.modules)


def check(folder: Path) -> CheckedAdapter:
    read = read_config((folder / "adapter_config.json").read_bytes())
    return check_adapter(read, folder / "adapter_model.safetensors", BASE, LIMITS)


def scales(checked: CheckedAdapter) -> dict[tuple[int, str], float]:
    return {(module.layer, module.module): module.scale for module in checked.manifest.modules}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from(["q_proj", "all-linear", ".*v_proj", "LORA", 1, 2, 4, 16]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = [*sorted(peft.LoraConfig(target_modules=["q_proj"]).to_dict()), "model_type", "unknown"]


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON_VALUES, max_size=4))
def test_any_config_is_read_or_refused_with_a_reason(changes: dict[str, Any]) -> None:
    try:
        read = read_config(json.dumps(config() | changes).encode())
    except AdapterInvalid as refusal:
        str(refusal).encode()
        return
    for layer in range(LAYERS):
        for module in ALL:
            name = tensor_name(layer, module, "A", "model.").removesuffix(".lora_A.weight")
            read.covers(name, layer)
            assert read.rank_of(name) >= 1
            assert math.isfinite(read.scale_of(name))
            assert read.scale_of(name) != 0


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_as_a_config_are_refused_with_a_reason(content: bytes) -> None:
    with pytest.raises(AdapterInvalid):
        read_config(content)


def test_scales_are_alpha_over_r_and_over_its_root_for_rslora(tmp_path: Path) -> None:
    plain = check(with_config(lora_alpha=3).write(tmp_path / "plain"))
    rslora = check(with_config(lora_alpha=3, use_rslora=True).write(tmp_path / "rslora"))

    assert set(scales(plain).values()) == {1.5}
    assert set(scales(rslora).values()) == {3 / 2**0.5}


def test_the_first_pattern_that_matches_decides(tmp_path: Path) -> None:
    values = tensors(rank=2) | tensors(("v_proj",), rank=3)
    patterns = {"layers.1.self_attn.q_proj": 8, "q_proj": 12, r"layers\.[01]\..*": 100}
    folder = PeftFolder(config(rank_pattern={"v_proj": 3}, alpha_pattern=patterns), values).write(tmp_path)

    checked = check(folder)
    found = scales(checked)

    assert ["several patterns" in warning for warning in checked.warnings] == [True]
    assert [found[layer, "q_proj"] for layer in range(LAYERS)] == [12 / 2, 8 / 2, 12 / 2]
    assert [found[layer, "v_proj"] for layer in range(LAYERS)] == [100 / 3, 100 / 3, 4 / 3]


def test_an_adapter_that_changes_nothing_is_accepted_with_a_warning(tmp_path: Path) -> None:
    for case, folder in {"A": with_all_zero("A", range(3)), "B": with_all_zero("B", range(3))}.items():
        assert check(folder.write(tmp_path / case)).warnings == (
            "the adapter has no effect: A or B is zero in every module",
        )


def test_modules_that_change_nothing_are_counted(tmp_path: Path) -> None:
    warnings = check(with_all_zero("B", range(1)).write(tmp_path)).warnings

    assert warnings == ("2 of 6 modules have no effect: their A or B is zero",)


def test_another_bases_name_is_a_warning_because_shapes_decide(tmp_path: Path) -> None:
    [warning] = check(with_config(base_model_name_or_path="google/gemma-2b").write(tmp_path)).warnings

    assert "google/gemma-2b" in warning
    assert "tiny-gemma" in warning


def test_the_manifest_points_at_each_tensors_bytes(tmp_path: Path) -> None:
    folder = PeftFolder().write(tmp_path)
    content = (folder / "adapter_model.safetensors").read_bytes()
    values = tensors()

    for module in check(folder).manifest.modules:
        for tensor in (module.a, module.b):
            assert content[tensor.offset : tensor.offset + tensor.size] == values[tensor.name].tobytes()


def test_a_value_that_is_not_finite_is_found_behind_the_first_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemlora.registry.tensor_values.CHUNK_BYTES", 20)
    with pytest.raises(AdapterInvalid, match=r"at \[3, 1\]"):
        check(with_value(float("nan")).write(tmp_path))
