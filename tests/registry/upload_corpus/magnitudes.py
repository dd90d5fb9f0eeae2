"""DoRA and pairs on the embedding and the head: complete ones, and ones that miss or exceed something."""

import numpy as np
from tests.registry.peft_folder import BASE, LAYERS, RANK, PeftFolder, config, tensors
from tests.registry.upload_corpus.changes import Q1A, bfloat16, with_config
from tests.registry.upload_corpus.configs import Refused

ROOT = "base_model.model."
BODY = "base_model.model.model."
EMBEDDING, HEAD = f"{BODY}embed_tokens", f"{ROOT}lm_head"
VOCABULARY, HIDDEN = BASE.vocabulary, BASE.hidden

Tensors = dict[str, np.ndarray]


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def magnitudes(
    modules: tuple[str, ...] = ("q_proj", "v_proj"), layers: range | list[int] = range(LAYERS), end: str = ""
) -> Tensors:
    return {
        name.replace("lora_B.weight", f"lora_magnitude_vector{end}"): values(value.shape[0])
        for name, value in tensors(modules, layers).items()
        if "lora_B" in name
    }


def embedding(rank: int = RANK, name: str = EMBEDDING) -> Tensors:
    return {
        f"{name}.lora_embedding_A": values(rank, VOCABULARY),
        f"{name}.lora_embedding_B": values(HIDDEN, rank, seed=1),
    }


def head(rank: int = RANK, name: str = HEAD) -> Tensors:
    return {f"{name}.lora_A.weight": values(rank, HIDDEN), f"{name}.lora_B.weight": values(VOCABULARY, rank, seed=1)}


def tied(rank: int = RANK) -> Tensors:
    pair = embedding(rank)
    a, b = pair.values()
    return pair | {f"{HEAD}.lora_A.weight": b.T.copy(), f"{HEAD}.lora_B.weight": a.T.copy()}


def copy(name: str, end: str = "base_layer.weight") -> Tensors:
    return {f"{name}.{end}": values(VOCABULARY, HIDDEN)}


def folder(names: list[str] | str | None, *parts: Tensors, **changes: object) -> PeftFolder:
    merged: Tensors = {}
    for part in parts:
        merged |= part
    return PeftFolder(config(target_modules=names, **changes), merged)


def dora(*parts: Tensors, **changes: object) -> PeftFolder:
    return folder(["q_proj", "v_proj"], tensors(), *parts, **{"use_dora": True} | changes)


def dropped(source: PeftFolder, name: str) -> PeftFolder:
    return PeftFolder(source.config, {key: value for key, value in source.tensors.items() if key != name})


def replaced(source: PeftFolder, name: str, value: np.ndarray) -> PeftFolder:
    assert name in source.tensors
    return PeftFolder(source.config, source.tensors | {name: value})


def one_value(source: PeftFolder, name: str, number: float) -> PeftFolder:
    value = source.tensors[name].copy()
    value.flat[-1] = number
    return replaced(source, name, value)


DORA = dora(magnitudes())
DORA_EVERYWHERE = folder(
    ["q_proj", "embed_tokens", "lm_head"], tensors(("q_proj",)), magnitudes(("q_proj",)), embedding(), head(),
    {f"{EMBEDDING}.lora_magnitude_vector": values(HIDDEN), f"{HEAD}.lora_magnitude_vector": values(VOCABULARY)},
    use_dora=True,
)  # fmt: skip
OF_EMBEDDING = folder(["embed_tokens"], embedding(), copy(EMBEDDING))
OF_HEAD = folder(["lm_head"], head(), copy(HEAD))
OF_BOTH = folder(["embed_tokens", "lm_head"], embedding(), head(), copy(EMBEDDING), copy(HEAD))
TIED = folder(["model.embed_tokens"], tied(), ensure_weight_tying=True)
Q1_MAGNITUDE = Q1A.replace("lora_A.weight", "lora_magnitude_vector")
LARGE = np.concatenate([values(VOCABULARY, HIDDEN), values(1, HIDDEN)])

ACCEPTED: dict[str, PeftFolder] = {
    "DoRA": DORA,
    "DoRA with .weight": dora(magnitudes(end=".weight")),
    "DoRA with the adapter's name": dora(magnitudes(end=".default.weight")),
    "DoRA in bfloat16": PeftFolder(DORA.config, bfloat16(DORA.tensors)),
    "DoRA with rsLoRA": dora(magnitudes(), use_rslora=True),
    "DoRA with rank_pattern": folder(
        ["q_proj", "v_proj"], tensors(("q_proj",)), tensors(("v_proj",), rank=5), magnitudes(), use_dora=True,
        rank_pattern={"v_proj": 5},
    ),
    "DoRA on some layers": folder(
        ["q_proj"], tensors(("q_proj",), [1]), magnitudes(("q_proj",), [1]), use_dora=True, layers_to_transform=[1]
    ),
    "DoRA everywhere": DORA_EVERYWHERE,
    "embedding": OF_EMBEDDING,
    "embedding without a copy of the base": folder(["model.embed_tokens"], embedding()),
    "embedding with the adapter's name": folder(
        ["embed_tokens"], {f"{name}.default": value for name, value in embedding().items()}
    ),
    "embedding by expression": folder(".*embed_tokens", embedding(), copy(EMBEDDING)),
    "embedding and layers": folder(["q_proj", "v_proj", "embed_tokens"], tensors(), embedding()),
    "embedding under language_model": folder(
        ["embed_tokens"], embedding(name="base_model.model.model.language_model.embed_tokens")
    ),
    "embedding in rank_pattern": folder(["embed_tokens"], embedding(5), rank_pattern={"embed_tokens": 5}),
    "head": OF_HEAD,
    "head without a copy of the base": folder(["lm_head"], head()),
    "head by expression": folder(".*lm_head", head()),
    "head and layers": folder(["q_proj", "v_proj", "lm_head"], tensors(), head()),
    "head beside language_model": folder(
        ["q_proj", "lm_head"], tensors(("q_proj",), prefix="base_model.model.model.language_model."), head()
    ),
    "head within old language_model": folder(
        ["q_proj", "lm_head"], tensors(("q_proj",), prefix="base_model.model.language_model.model."),
        head(name="base_model.model.language_model.lm_head"),
    ),
    "head beside compiled layers": folder(
        ["q_proj", "lm_head"], tensors(("q_proj",), prefix="base_model.model._orig_mod.model."),
        head(name="base_model.model._orig_mod.lm_head"),
    ),
    "head in alpha_pattern": folder(["lm_head"], head(), alpha_pattern={"lm_head": 3}),
    "embedding and head": OF_BOTH,
    "embedding and head of different ranks": folder(
        ["embed_tokens", "lm_head"], embedding(3), head(), rank_pattern={"embed_tokens": 3}
    ),
    "layers beside saved embeddings": folder(
        ["q_proj", "v_proj"], tensors(), copy(EMBEDDING, "weight"), copy(HEAD, "weight")
    ),
    "tied": TIED,
    "tied as PEFT writes it": folder(
        ["embed_tokens", "model.embed_tokens"], tied(), copy(EMBEDDING), copy(HEAD), ensure_weight_tying=True
    ),
    "tied by the head's name": folder(["lm_head"], tied(), ensure_weight_tying=True),
    "tied by expression": folder(r"(?:.*embed_tokens|^model\.embed_tokens$)", tied(), ensure_weight_tying=True),
    "expression that PEFT does not tie": folder(r"model\.embed_tokens", embedding(), ensure_weight_tying=True),
    "tying without an embedding": with_config(ensure_weight_tying=True),
    "tied with float16": PeftFolder(
        TIED.config, {name: value.astype("float16") for name, value in TIED.tensors.items()}
    ),
}  # fmt: skip

REFUSED: dict[str, Refused] = {
    **{f"use_dora {value!r}": (dora(magnitudes(), use_dora=value), "use_dora is") for value in ("yes", 1, [], {})},
    "DoRA without magnitudes": (dora(), "layers.0.self_attn.q_proj.lora_magnitude_vector is missing"),
    "DoRA without one magnitude": (dropped(DORA, Q1_MAGNITUDE), f"{Q1_MAGNITUDE} is missing"),
    "magnitudes without use_dora": (
        folder(["q_proj", "v_proj"], tensors(), magnitudes()), "lora_magnitude_vector is DoRA's"
    ),
    "magnitudes with use_dora false": (dora(magnitudes(), use_dora=False), "lora_magnitude_vector is DoRA's"),
    "magnitude twice": (dora(magnitudes(), magnitudes(end=".weight")), "means the same as"),
    "magnitude elsewhere": (dora(magnitudes(), magnitudes(("k_proj",))), "k_proj.lora_magnitude_vector is not"),
    **{f"magnitude of shape {list(shape)}": (replaced(DORA, Q1_MAGNITUDE, values(*shape)), r"expected \[12\]")
       for shape in ((8,), (11,), (13,), (1, 12), (12, 1), ())},
    "magnitude NaN": (one_value(DORA, Q1_MAGNITUDE, np.nan), r"lora_magnitude_vector has a NaN or infinity at \[11\]"),
    "magnitude infinite": (one_value(DORA, Q1_MAGNITUDE, np.inf), "NaN or infinity"),
    "embedding's magnitude of the vocabulary": (
        replaced(DORA_EVERYWHERE, f"{EMBEDDING}.lora_magnitude_vector", values(VOCABULARY)), r"expected \[8\]"
    ),
    "head's magnitude of the width": (
        replaced(DORA_EVERYWHERE, f"{HEAD}.lora_magnitude_vector", values(HIDDEN)), r"expected \[256\]"
    ),
    "head without a magnitude": (dropped(DORA_EVERYWHERE, f"{HEAD}.lora_magnitude_vector"), "is missing"),
    "embedding without A": (dropped(OF_EMBEDDING, f"{EMBEDDING}.lora_embedding_A"), "lora_embedding_A is missing"),
    "embedding without B": (dropped(OF_EMBEDDING, f"{EMBEDDING}.lora_embedding_B"), "lora_embedding_B is missing"),
    "embedding not targeted": (
        folder(["q_proj", "v_proj"], tensors(), embedding()), "embed_tokens.lora_embedding_A is not targeted"
    ),
    "embedding in all-linear": (
        folder("all-linear", tensors(tuple(BASE.modules)), embedding()), "embed_tokens.lora_embedding_A is not targeted"
    ),
    "embedding beside layers_to_transform": (
        folder(["q_proj", "embed_tokens"], tensors(("q_proj",), [0]), embedding(), layers_to_transform=[0]),
        "embed_tokens.lora_embedding_A is not targeted",
    ),
    "embedding targeted without tensors": (
        with_config(target_modules=["q_proj", "v_proj", "embed_tokens"]), "embed_tokens.lora_embedding_A is missing"
    ),
    "embedding as a linear module": (folder(["embed_tokens"], head(name=EMBEDDING)), "belongs to no module"),
    "embedding's pair swapped": (
        folder(["embed_tokens"], dict(zip(embedding(), reversed(embedding().values()), strict=True))), "has shape"
    ),
    "embedding of a larger vocabulary": (
        replaced(OF_EMBEDDING, f"{EMBEDDING}.lora_embedding_A", values(RANK, VOCABULARY + 1)), r"expected \[2, 256\]"
    ),
    "embedding of another width": (
        replaced(OF_EMBEDDING, f"{EMBEDDING}.lora_embedding_B", values(HIDDEN + 1, RANK)), r"expected \[8, 2\]"
    ),
    "embedding of another rank": (folder(["embed_tokens"], embedding(3)), r"expected \[2, 256\]"),
    "embedding over the rank limit": (folder(["embed_tokens"], embedding(17), r=17), "rank 17 .* limit 16"),
    "embedding NaN": (one_value(OF_EMBEDDING, f"{EMBEDDING}.lora_embedding_A", np.nan), r"infinity at \[1, 255\]"),
    "head without A": (dropped(OF_HEAD, f"{HEAD}.lora_A.weight"), "lm_head.lora_A.weight is missing"),
    "head without B": (dropped(OF_HEAD, f"{HEAD}.lora_B.weight"), "lm_head.lora_B.weight is missing"),
    "head not targeted": (folder(["q_proj", "v_proj"], tensors(), head()), "lm_head.lora_A.weight is not targeted"),
    "head in all-linear": (folder("all-linear", tensors(tuple(BASE.modules)), head()), "lm_head.lora_A.weight is not"),
    "head targeted without tensors": (
        with_config(target_modules=["q_proj", "v_proj", "lm_head"]), "lm_head.lora_A.weight is missing"
    ),
    "head as an embedding": (folder(["lm_head"], embedding(name=HEAD)), "belongs to no module"),
    "head within the model": (
        folder(["q_proj", "lm_head"], tensors(("q_proj",)), head(name=f"{BODY}lm_head")), "prefix that does not go with"
    ),
    "heads with two prefixes": (
        folder(["lm_head"], head(), head(name="base_model.model.module.lm_head")), "means the same as"
    ),
    "head of another vocabulary": (
        replaced(OF_HEAD, f"{HEAD}.lora_B.weight", values(VOCABULARY - 1, RANK)), r"expected \[256, 2\]"
    ),
    "head of another width": (replaced(OF_HEAD, f"{HEAD}.lora_A.weight", values(RANK, 16)), r"expected \[2, 8\]"),
    "head infinite": (one_value(OF_HEAD, f"{HEAD}.lora_B.weight", np.inf), r"infinity at \[255, 1\]"),
    "copy of a resized vocabulary": (
        replaced(OF_EMBEDDING, f"{EMBEDDING}.base_layer.weight", LARGE), r"has shape \[257, 8\]; expected \[256, 8\]"
    ),
    "copy transposed": (
        replaced(OF_HEAD, f"{HEAD}.base_layer.weight", values(HIDDEN, VOCABULARY)), r"expected \[256, 8\]"
    ),
    "copy NaN": (one_value(OF_HEAD, f"{HEAD}.base_layer.weight", np.nan), "base_layer.weight has a NaN"),
    "copy twice": (folder(["lm_head"], head(), copy(HEAD), copy(HEAD, "weight")), "means the same as"),
    "only copies": (
        PeftFolder(config(), copy(EMBEDDING) | copy(HEAD)), "layers.0.self_attn.q_proj.lora_A.weight is missing"
    ),
    "only copies and a pattern that matches nothing": (
        folder("nothing", copy(EMBEDDING), copy(HEAD)), "target_modules selects no module"
    ),
    "copy of a layer": (
        folder(["q_proj", "v_proj"], tensors(), copy(f"{BODY}layers.0.self_attn.q_proj")), "belongs to no module"
    ),
    "tied head missing": (folder(["embed_tokens"], embedding(), ensure_weight_tying=True), "lm_head.lora_A.weight is"),
    "tied embedding missing": (folder(["lm_head"], head(), ensure_weight_tying=True), "lora_embedding_A is missing"),
    "tied without tying": (folder(["model.embed_tokens"], tied()), "lm_head.lora_A.weight is not targeted"),
    "tied A that is not": (
        one_value(TIED, f"{HEAD}.lora_A.weight", 9), r"embedding_B is not .*lm_head.lora_A.weight transposed"
    ),
    "tied B that is not": (
        one_value(TIED, f"{HEAD}.lora_B.weight", 9), r"lora_B.weight is not .*lora_embedding_A transposed"
    ),
    **{f"ensure_weight_tying {value!r}": (with_config(ensure_weight_tying=value), "ensure_weight_tying is")
       for value in ("yes", 1, [], {})},
}  # fmt: skip
