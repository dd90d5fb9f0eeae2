"""What is accepted computes what PEFT computes; everything else is refused with the tensor's or key's name."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.registry.peft_folder import BASE, LAYERS, LIMITS, PeftFolder, config, tensor_name, tensors

from gemlora.errors import AdapterInvalid
from gemlora.registry.validation import CheckedAdapter, check_adapter, read_config

ALL = tuple(BASE.modules)


def check(folder: Path) -> CheckedAdapter:
    read = read_config((folder / "adapter_config.json").read_bytes())
    return check_adapter(read, folder / "adapter_model.safetensors", BASE, LIMITS)


def scales(checked: CheckedAdapter) -> dict[tuple[int, str], float]:
    return {(module.layer, module.module): module.scale for module in checked.manifest.modules}


def with_config(**changes: Any) -> PeftFolder:
    return PeftFolder(config(**changes))


def with_tensors(edit: Callable[[dict[str, np.ndarray]], object]) -> PeftFolder:
    folder = PeftFolder()
    edit(folder.tensors)
    return folder


def put(name: str, value: np.ndarray) -> PeftFolder:
    return with_tensors(lambda all_tensors: all_tensors.__setitem__(name, value))


def without(name: str) -> PeftFolder:
    return with_tensors(lambda all_tensors: all_tensors.pop(name))


def with_value(number: float, dtype: str = "float32", module: str = "q_proj") -> PeftFolder:
    values = tensors(dtype=dtype)
    values[tensor_name(1, module, "B")][3, 1] = number
    return PeftFolder(tensors=values)


def with_all_zero(side: str, layers: range) -> PeftFolder:
    values = tensors()
    for layer in layers:
        for module in ("q_proj", "v_proj"):
            values[tensor_name(layer, module, side)][:] = 0
    return PeftFolder(tensors=values)


Q1A, Q1B = tensor_name(1, "q_proj", "A"), tensor_name(1, "q_proj", "B")
ODD = np.ones((2, 8), np.float32)

ACCEPTED: dict[str, PeftFolder] = {
    "plain": PeftFolder(),
    "all seven": PeftFolder(config(target_modules=list(ALL)), tensors(ALL)),
    "one module": PeftFolder(config(target_modules=["down_proj"]), tensors(("down_proj",))),
    "all-linear": PeftFolder(config(target_modules="all-linear"), tensors(ALL)),
    "ALL-LINEAR": PeftFolder(config(target_modules="ALL-LINEAR"), tensors(ALL)),
    "default targets": with_config(target_modules=None),
    "expression": with_config(target_modules=r".*\.(q_proj|v_proj)"),
    "qualified targets": with_config(target_modules=["self_attn.q_proj", "self_attn.v_proj"]),
    "repeated target": with_config(target_modules=["q_proj", "v_proj", "q_proj"]),
    "whole names": PeftFolder(
        config(target_modules=["model.layers.2.mlp.up_proj"]), tensors(("up_proj",), layers=[2])
    ),
    "excluded": PeftFolder(
        config(target_modules="all-linear", exclude_modules=["o_proj", "mlp.up_proj"]),
        tensors(("q_proj", "k_proj", "v_proj", "gate_proj", "down_proj")),
    ),
    "excluded by expression": PeftFolder(
        config(exclude_modules=r".*layers\.0\..*"), tensors(layers=[1, 2])
    ),
    "layers_to_transform": PeftFolder(
        config(layers_to_transform=[0, 2], layers_pattern="layers"), tensors(layers=[0, 2])
    ),
    "one layer": PeftFolder(config(layers_to_transform=1), tensors(layers=[1])),
    "float16": PeftFolder(tensors=tensors(dtype="float16")),
    "highest rank": PeftFolder(config(r=16), tensors(rank=16)),
    "language_model prefix": PeftFolder(tensors=tensors(prefix="base_model.model.model.language_model.")),
    "old language_model prefix": PeftFolder(tensors=tensors(prefix="base_model.model.language_model.model.")),
    "no prefix": PeftFolder(tensors=tensors(prefix="model.")),
    "compiled": PeftFolder(tensors=tensors(prefix="base_model.model._orig_mod.model.")),
    "fractional alpha": with_config(lora_alpha=0.5),
    "negative alpha": with_config(lora_alpha=-4),
    "defaults": PeftFolder(config(r=..., lora_alpha=...), tensors(rank=8)),
    "null keys": with_config(modules_to_save=None, layer_replication=None, loftq_config={}, rank_pattern=None),
    "inactive variants": with_config(use_dora=False, lora_bias=False, use_qalora=False, use_bdlora=None, bias="none"),
    "inactive key of the future": with_config(use_hyper_lora=False, hyper_config={}, hyper_name="", hyper_list=[]),
    "training keys": with_config(
        lora_dropout=0.1, inference_mode=True, peft_version="0.21.2", revision="main", qalora_group_size=16,
        megatron_core="megatron.core", auto_mapping={"base_model_class": "GemmaForCausalLM"}, eva_config={"rho": 2.0},
        ensure_weight_tying=True, loftq_config={"loftq_bits": 4}, corda_config={"corda_method": "ipm"},
    ),
    "gaussian": with_config(init_lora_weights="gaussian"),
    "eva": with_config(init_lora_weights="eva"),
    "orthogonal": with_config(init_lora_weights="orthogonal"),
    "random": with_config(init_lora_weights=False),
    "model_type": with_config(model_type="gemma"),
    "no task": with_config(task_type=None),
    "unmatched pattern": with_config(rank_pattern={"k_proj": 7}),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_adapters_that_take_full_effect_are_accepted(case: str, tmp_path: Path) -> None:
    checked = check(ACCEPTED[case].write(tmp_path))

    claimed = {tensor.name for module in checked.manifest.modules for tensor in (module.a, module.b)}
    assert claimed == set(ACCEPTED[case].tensors)
    assert checked.warnings == ()


REFUSED: dict[str, tuple[PeftFolder, str]] = {
    # The config's own form.
    "no peft_type": (with_config(peft_type=...), "peft_type is null"),
    "LoKr": (with_config(peft_type="LOKR"), 'peft_type is "LOKR"'),
    "LoHa": (with_config(peft_type="LOHA"), 'peft_type is "LOHA"'),
    "AdaLoRA": (with_config(peft_type="ADALORA"), 'peft_type is "ADALORA"'),
    "peft_type in lower case": (with_config(peft_type="lora"), 'peft_type is "lora"'),
    "peft_type is a list": (with_config(peft_type=["LORA"]), "peft_type is"),
    "classifier": (with_config(task_type="SEQ_CLS"), 'task_type is "SEQ_CLS"'),
    "llama": (with_config(model_type="llama"), 'model_type is "llama"'),
    "r 0": (with_config(r=0), "r is 0"),
    "r negative": (with_config(r=-1), "r is -1"),
    "r fractional": (with_config(r=2.0), "r is 2.0"),
    "r true": (with_config(r=True), "r is true"),
    "r is a text": (with_config(r="2"), 'r is "2"'),
    "r null": (with_config(r=None), "r is null"),
    "r other than the tensors'": (with_config(r=3), r"has shape \[2, 8\]; expected \[3, 8\]"),
    "r over the limit": (PeftFolder(config(r=17), tensors(rank=17)), "rank 17 .* limit 16"),
    "r of 4,000 digits": (with_config(r=10**4000), "r is 1000"),
    "r 10^9": (with_config(r=10**9), "rank 1000000000"),
    "alpha 0": (with_config(lora_alpha=0), "lora_alpha is 0"),
    "alpha is a text": (with_config(lora_alpha="16"), 'lora_alpha is "16"'),
    "alpha true": (with_config(lora_alpha=True), "lora_alpha is true"),
    "alpha null": (with_config(lora_alpha=None), "lora_alpha is null"),
    "alpha tiny": (with_config(lora_alpha=1e-300), "lora_alpha is"),
    "alpha huge": (with_config(lora_alpha=1e300), "lora_alpha is"),
    "alpha over float": (with_config(lora_alpha=10**400), "lora_alpha is"),
    "rslora is a text": (with_config(use_rslora="yes"), "use_rslora is"),
    "rank_pattern is a list": (with_config(rank_pattern=["q_proj"]), "rank_pattern is"),
    "rank_pattern 0": (with_config(rank_pattern={"q_proj": 0}), r'rank_pattern\["q_proj"\] is 0'),
    "rank_pattern null": (with_config(rank_pattern={"q_proj": None}), r'rank_pattern\["q_proj"\] is null'),
    "rank_pattern other than the tensors'": (with_config(rank_pattern={"v_proj": 4}), r"v_proj.*expected \[4, 8\]"),
    "rank_pattern hostile": (with_config(rank_pattern={"(?=a)": 4}), "rank_pattern.*unsupported syntax"),
    "rank_pattern too many": (with_config(rank_pattern={f"x{i}": 2 for i in range(1025)}), "rank_pattern has more"),
    "rank_pattern expressions": (with_config(rank_pattern={f"x{i}+": 2 for i in range(65)}), "rank_pattern has more"),
    "alpha_pattern 0": (with_config(alpha_pattern={"q_proj": 0}), r'alpha_pattern\["q_proj"\] is 0'),
    "target_modules empty": (with_config(target_modules=[]), "target_modules is empty"),
    "target_modules empty text": (with_config(target_modules=""), "target_modules is empty"),
    "target_modules number": (with_config(target_modules=3), "target_modules is 3"),
    "target_modules with null": (with_config(target_modules=["q_proj", None]), "target_modules is"),
    "target_modules with an empty name": (with_config(target_modules=["q_proj", ""]), "target_modules is"),
    "target_modules hostile": (with_config(target_modules="(a+)+(?=b)"), "target_modules uses unsupported syntax"),
    "target_modules lm_head": (with_config(target_modules=["q_proj", "v_proj", "lm_head"]), "'lm_head'"),
    "target_modules embed_tokens": (with_config(target_modules=["q_proj", "v_proj", "embed_tokens"]), "'embed_tokens'"),
    "target_modules of another family": (with_config(target_modules=["q_proj", "v_proj", "c_attn"]), "'c_attn'"),
    "target without tensors": (
        with_config(target_modules=["q_proj", "v_proj", "k_proj"]), "layers.0.self_attn.k_proj.lora_A.weight is missing"
    ),
    "tensors without target": (with_config(target_modules=["q_proj"]), "v_proj.lora_A.weight is not targeted"),
    "nothing matches": (with_config(target_modules="nothing"), "is not targeted"),
    "layers_to_transform text": (with_config(layers_to_transform="all"), "layers_to_transform is"),
    "layers_to_transform of 4,000 digits": (with_config(layers_to_transform=10**4000), "layers_to_transform is"),
    "layers_to_transform negative": (with_config(layers_to_transform=[-1]), "layers_to_transform is"),
    "layers_to_transform beyond": (PeftFolder(config(layers_to_transform=[0, 3]), tensors(layers=[0])), "layer 3"),
    "layers_to_transform fewer": (with_config(layers_to_transform=[0]), "is not targeted"),
    "layers_pattern unknown": (with_config(layers_to_transform=[0], layers_pattern="blocks"), "layers_pattern is"),
    "layers_to_transform with text": (
        with_config(layers_to_transform=[0], target_modules="all-linear"), "needs a list"
    ),
    "base name is a number": (with_config(base_model_name_or_path=7), "base_model_name_or_path is 7"),
    # Variants that change what an adapter computes.
    "DoRA": (with_config(use_dora=True), "use_dora"),
    "modules_to_save": (with_config(modules_to_save=["embed_tokens"]), "modules_to_save"),
    "bias all": (with_config(bias="all"), 'bias is "all"'),
    "bias lora_only": (with_config(bias="lora_only"), 'bias is "lora_only"'),
    "lora_bias": (with_config(lora_bias=True), "lora_bias"),
    "trained tokens": (with_config(trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "fan_in_fan_out": (with_config(fan_in_fan_out=True), "fan_in_fan_out"),
    "layer_replication": (with_config(layer_replication=[[0, 2]]), "layer_replication"),
    "megatron": (with_config(megatron_config={"a": 1}), "megatron_config"),
    "aLoRA": (with_config(alora_invocation_tokens=[5]), "alora_invocation_tokens"),
    "KaSA": (with_config(kasa_config={"beta": 0.1}), "kasa_config"),
    "BD-LoRA": (with_config(use_bdlora={"nblocks": 2}), "use_bdlora"),
    "VeLoRA": (with_config(velora_config={"x": 1}), "velora_config"),
    "MonteCLoRA": (with_config(monteclora_config={"x": 1}), "monteclora_config"),
    "QA-LoRA": (with_config(use_qalora=True), "use_qalora"),
    "Arrow": (with_config(arrow_config={"top_k": 2}), "arrow_config"),
    "target_parameters": (with_config(target_parameters=["weight"]), "target_parameters"),
    "PiSSA": (with_config(init_lora_weights="pissa"), "init_lora_weights \"pissa\" changed the base"),
    "PiSSA with iterations": (with_config(init_lora_weights="pissa_niter_16"), "init_lora_weights"),
    "OLoRA": (with_config(init_lora_weights="olora"), "init_lora_weights"),
    "CorDA": (with_config(init_lora_weights="corda"), "init_lora_weights"),
    "LoftQ": (with_config(init_lora_weights="loftq"), "init_lora_weights"),
    "LoRA-GA": (with_config(init_lora_weights="lora_ga"), "init_lora_weights"),
    "key of the future": (with_config(use_hyper_lora=True), '"use_hyper_lora" is not known'),
    "number of the future": (with_config(hyper_factor=2), '"hyper_factor" is not known'),
    "zero of the future": (with_config(hyper_factor=0), '"hyper_factor" is not known'),
    # Tensors that are wrong, missing or too many.
    "missing A": (without(Q1A), "layers.1.self_attn.q_proj.lora_A.weight is missing"),
    "missing B": (without(Q1B), "layers.1.self_attn.q_proj.lora_B.weight is missing"),
    "missing layer": (PeftFolder(tensors=tensors(layers=[0, 1])), "layers.2.self_attn.q_proj.lora_A.weight is missing"),
    "layer beyond": (PeftFolder(tensors=tensors(layers=range(4))), "layers.3.*has only 3 layers"),
    "layer 01": (put("base_model.model.model.layers.01.self_attn.q_proj.lora_A.weight", ODD), "belongs to no module"),
    "layer of 5,000 digits": (put(f"model.layers.{'9' * 400}.self_attn.q_proj.lora_A.weight", ODD), "belongs to no"),
    "wrong parent": (put("base_model.model.model.layers.0.mlp.q_proj.lora_A.weight", ODD), "belongs to no module"),
    "unknown module": (put("base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight", ODD), "belongs to no"),
    "stray tensor": (put("something", ODD), "something belongs to no module"),
    "base weight": (put("model.layers.0.self_attn.q_proj.weight", ODD), "belongs to no module"),
    "adapter name left in": (put(f"{Q1A[:-7]}.default.weight", ODD), "belongs to no"),
    "mixed prefixes": (put("language_model.layers.0.self_attn.q_proj.lora_A.weight", ODD), "prefix differs"),
    "two names of one tensor": (put("model.layers.0.self_attn.q_proj.lora_A.weight", ODD), "means the same as"),
    "vision tower": (put("base_model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight", ODD), "vision tower"),
    "magnitude": (put("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", ODD), "DoRA"),
    "embedding pair": (put("base_model.model.model.embed_tokens.lora_embedding_A", ODD), "embeddings"),
    "whole lm_head": (put("base_model.model.lm_head.weight", ODD), "output head"),
    "lora_B bias": (put("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", ODD), "biases"),
    "A transposed": (put(Q1A, np.ones((8, 2), np.float32)), r"has shape \[8, 2\]; expected \[2, 8\] .*tiny-gemma"),
    "B of another base": (put(Q1B, np.ones((16, 2), np.float32)), r"has shape \[16, 2\]; expected \[12, 2\]"),
    "ranks of A and B differ": (put(Q1B, np.ones((12, 3), np.float32)), r"expected \[12, 2\]"),
    "vector": (put(Q1A, np.ones(16, np.float32)), r"has shape \[16\]"),
    "three dimensions": (put(Q1A, np.ones((2, 8, 1), np.float32)), r"has shape \[2, 8, 1\]"),
    "double precision": (PeftFolder(tensors=tensors(dtype="float64")), 'the dtype "F64"'),
    "NaN": (with_value(float("nan")), r"layers.1.self_attn.q_proj.lora_B.weight has a NaN or infinity at \[3, 1\]"),
    "infinity": (with_value(float("inf")), "NaN or infinity"),
    "minus infinity": (with_value(float("-inf")), "NaN or infinity"),
    "half NaN": (with_value(float("nan"), "float16"), "NaN or infinity"),
    "half infinity": (with_value(float("inf"), "float16"), "NaN or infinity"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_everything_else_is_refused_by_name(case: str, tmp_path: Path) -> None:
    folder, reason = REFUSED[case]

    with pytest.raises(AdapterInvalid, match=reason) as refusal:
        check(folder.write(tmp_path))

    assert str(refusal.value).startswith("adapter_")
    assert len(str(refusal.value)) < 800
    assert str(refusal.value).isprintable()


CONFIG_TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "a list": (b"[]", "not a JSON object"),
    "null": (b"null", "not a JSON object"),
    "NaN": (json.dumps(config(lora_alpha=float("nan"))).encode(), "NaN"),
    "infinity": (json.dumps(config(lora_alpha=float("inf"))).encode(), "Infinity"),
    "1e999": (json.dumps(config()).replace('"lora_alpha": 4', '"lora_alpha": 1e999').encode(), "lora_alpha is"),
    "duplicate key": (json.dumps(config()).replace("{", '{"r": 9,', 1).encode(), '"r" twice'),
    "duplicate pattern": (b'{"peft_type": "LORA", "rank_pattern": {"a": 1, "a": 2}}', '"a" twice'),
    "comments": (b'{"peft_type": "LORA" /* */}', "not valid JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not valid JSON"),
    "UTF-16": (json.dumps(config()).encode("utf-16"), "not UTF-8"),
    "deep": (b'{"a":' * 200_000, "nested too deeply"),
    "5,000 digits": (b'{"r": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "lone surrogate": (b'{"peft_type": "\\ud800"}', "peft_type is"),
    "surrogate in a key": (b'{"peft_type": "LORA", "\\ud800": 1}', "is not known"),
    "surrogate in a target": (
        json.dumps(config(target_modules=["q_proj", "v_proj", "\ud800"])).encode(), "target_modules"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIG_TEXTS)
def test_hostile_config_texts_are_refused(case: str, tmp_path: Path) -> None:
    content, reason = CONFIG_TEXTS[case]
    folder = PeftFolder().write(tmp_path)
    (folder / "adapter_config.json").write_bytes(content)

    with pytest.raises(AdapterInvalid, match=reason) as refusal:
        check(folder)

    str(refusal.value).encode()


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
    monkeypatch.setattr("gemlora.registry.validation.CHUNK_BYTES", 20)
    with pytest.raises(AdapterInvalid, match=r"at \[3, 1\]"):
        check(with_value(float("nan")).write(tmp_path))
