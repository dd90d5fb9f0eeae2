"""Variants of LoRA that are not computed: refused by the name of the key."""

from typing import Any

from tests.registry.upload_corpus.changes import with_config
from tests.registry.upload_corpus.configs import Refused

ACTIVE: dict[str, tuple[Any, ...]] = {
    "modules_to_save": (["embed_tokens"], ["lm_head"], "norm"),
    "lora_bias": (True, 1),
    "trainable_token_indices": ([1, 2], {"embed_tokens": [1]}, {"lm_head": [0]}),
    "fan_in_fan_out": (True,),
    "layer_replication": ([[0, 2]], [[0, 3], [1, 3]]),
    "megatron_config": ({"a": 1},),
    "alora_invocation_tokens": ([5], [1, 2, 3]),
    "kasa_config": ({"beta": 0.1}, {}),
    "use_bdlora": ({"nblocks": 2}, {}, True),
    "velora_config": ({"num_groups": 1}, {}),
    "monteclora_config": ({"num_samples": 8}, {}),
    "use_qalora": (True,),
    "arrow_config": ({"top_k": 2}, {}),
    "target_parameters": (["weight"],),
}

INITIALISATIONS = {
    "pissa": "path_initial_model_for_weight_conversion", "PiSSA": "path_initial_model_for_weight_conversion",
    "pissa_niter_16": "path_initial_model_for_weight_conversion", "olora": "path_initial_model_for_weight_conversion",
    "OLoRA": "path_initial_model_for_weight_conversion", "corda": "path_initial_model_for_weight_conversion",
    "lora_ga": "path_initial_model_for_weight_conversion", "loftq": "quantised", "xavier": "not known",
    "": "not known", 1: "not true, false or a name", 0: "not true", 2.5: "not true", ("eva",): "not true",
}  # fmt: skip

VARIANTS: dict[str, Refused] = {
    **{f"{key} {value!r}": (with_config(**{key: value}), f"{key} ") for key, values in ACTIVE.items()
       for value in values},
    **{f"bias {value!r}": (with_config(bias=value), "bias is")
       for value in ("all", "lora_only", "", None, True, 3, [])},
    **{f"init_lora_weights {value!r}": (with_config(init_lora_weights=value), f"init_lora_weights .*{reason}")
       for value, reason in INITIALISATIONS.items()},
    "key of the future": (with_config(use_hyper_lora=True), '"use_hyper_lora" is not known'),
    "text of the future": (with_config(hyper_kind="x"), '"hyper_kind" is not known'),
    "number of the future": (with_config(hyper_factor=2), '"hyper_factor" is not known'),
    "zero of the future": (with_config(hyper_factor=0), '"hyper_factor" is not known'),
    "list of the future": (with_config(hyper_list=[0]), '"hyper_list" is not known'),
    "object of the future": (with_config(hyper_config={"a": None}), '"hyper_config" is not known'),
    "key in another case": (with_config(Use_Dora=True), '"Use_Dora" is not known'),
    "key with a blank": (with_config(**{"r ": 4}), '"r " is not known'),
    "key in another script": (with_config(**{"ранг": 4}), "is not known"),
    "long key": (with_config(**{"x" * 100_000: 4}), "is not known"),
    "long value": (with_config(hyper="x" * 500_000), "is not known"),
    "deep value": (with_config(hyper=[[[[[1]]]]]), "is not known"),
}  # fmt: skip
