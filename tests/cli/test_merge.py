"""`gemlora merge`, `gemlora models export` and `gemlora adapters convert`, from the words to the files."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.cli.conftest import Command, fitting
from tests.gguf_files import tensor_shapes, write_gguf
from tests.registry.peft_folder import tensors

from gemlora.engines.cpu.weights.gguf_checkpoint import GgufCheckpoint
from gemlora.engines.cpu.weights.huggingface_checkpoint import opened_folder
from gemlora.engines.cpu.weights.huggingface_export import floats
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.fake import FAKE_FACTS


@pytest.fixture
def gemlora(gemlora: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command with a data directory of its own and the fake engine."""
    monkeypatch.setenv("GEMLORA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GEMLORA_ENGINE", "fake")
    return gemlora


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A GGUF file of the shapes that the fake engine says it serves."""
    names = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj",
             "ffn_gate": "gate_proj", "ffn_up": "up_proj", "ffn_down": "down_proj"}  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (300, 32), "output_norm.weight": (32,)}
    for name, shape in tensor_shapes("gemma3").items():
        if name.startswith("blk."):
            part = name.split(".")[2]
            shapes[name] = FAKE_FACTS.modules[names[part]] if part in names else (32,)
            if part in ("attn_q_norm", "attn_k_norm"):
                shapes[name] = (16,)
            assert len(shapes[name]) == len(shape)
    sizes = {
        "embedding_length": 32, "feed_forward_length": 128, "attention.head_count_kv": 1, "attention.key_length": 16,
        "attention.value_length": 16,
    }  # fmt: skip
    write_gguf(tmp_path / "base.gguf", metadata=sizes, shapes=shapes)
    return tmp_path / "base.gguf"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return fitting().write(tmp_path / "poet")


def query(path: Path) -> np.ndarray:
    """The query matrix of the first layer."""
    if path.is_dir():
        with opened_folder(path) as folder:
            return floats(folder.tensors["layers.0.q_proj"])
    with Pieces([path]) as pieces:
        return floats(GgufCheckpoint(pieces).tensors["layers.0.q_proj"])


def test_an_adapter_is_merged_from_its_folder_and_by_its_name(
    gemlora: Command, base: Path, adapter: Path, tmp_path: Path
) -> None:
    assert gemlora("adapters", "add", "bard", adapter).status == 0
    for name, output in ((adapter, tmp_path / "one.gguf"), ("bard", tmp_path / "other")):
        done = gemlora("merge", name, output, "--weights", base, "--dtype", "float32")
        assert done.status == 0, done.errors
        assert done.output.startswith(f"Wrote Tiny with {Path(name).name} to {output} (0.00 GB, float32)\n")
        assert f"gemlora serve --weights {output}" in done.output
        assert ("llama-server" in done.output) is (output.suffix == ".gguf")
        assert ("from_pretrained" in done.output) is (output.suffix == "")
    drawn = tensors(layers=range(FAKE_FACTS.layers), shapes=FAKE_FACTS.modules)
    a, b = (drawn[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight"] for side in "AB")
    expected = query(base) + 2 * (b @ a)
    for output in ("one.gguf", "other"):
        np.testing.assert_allclose(query(tmp_path / output), expected, rtol=1e-5, atol=1e-6)


def test_the_base_alone_is_exported(gemlora: Command, base: Path, tmp_path: Path) -> None:
    done = gemlora("models", "export", tmp_path / "out", "--weights", base, "--dtype", "float32")
    assert (done.status, done.output.splitlines()[0]) == (0, f"Wrote Tiny to {tmp_path / 'out'} (0.00 GB, float32)")
    np.testing.assert_array_equal(query(tmp_path / "out"), query(base))
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_bytes())["bos_token"] == "<bos>"
    refused = gemlora("models", "export", tmp_path / "out", "--weights", base)
    assert (refused.status, refused.output) == (1, "")
    assert refused.errors == f"Error: {tmp_path / 'out'} is there already; --force replaces it\n"
    assert gemlora("models", "export", tmp_path / "out", "--weights", base, "--force").status == 0
    assert (query(tmp_path / "out") != query(base)).any()


def test_errors_are_one_line_and_leave_nothing(gemlora: Command, base: Path, adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for arguments, text in [
        (("merge", "nobody", output, "--weights", base), "Adapter nobody not found"),
        (("merge", adapter, output, "--weights", tmp_path / "no.gguf"), "no such file"),
        (("merge", adapter, output, "--weights", base, "--format", "onnx"), "--format is onnx; expected one of"),
        (("merge", adapter, output, "--weights", base, "--dtype", "int8"), "--dtype is int8; expected one of"),
        (("adapters", "convert", adapter, output), "LoRA or DoRA already"),
        (("adapters", "convert", base, output), "general.type is None, not 'adapter'"),
    ]:
        status, printed, errors = gemlora(*arguments)
        assert (status, printed) == (1, ""), arguments
        assert errors.startswith("Error: ")
        assert text in errors
        assert errors.count("\n") == 1
        assert not output.exists()


def test_what_was_converted_can_be_added(gemlora: Command, tmp_path: Path) -> None:
    random, folder = np.random.default_rng(0), tmp_path / "loha"
    folder.mkdir()
    document = {"peft_type": "LOHA", "r": 2, "alpha": 4, "target_modules": ["v_proj"], "init_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    shapes = {"w1_a": (16, 2), "w1_b": (2, 32), "w2_a": (16, 2), "w2_b": (2, 32)}
    name = "base_model.model.model.layers.1.self_attn.v_proj.hada_"
    save_file(
        {name + part: random.normal(size=shape).astype(np.float32) for part, shape in shapes.items()},
        folder / "adapter_model.safetensors",
    )
    refused = gemlora("adapters", "add", "poet", folder)
    assert "convert it with gemlora adapters convert" in refused.errors
    output = tmp_path / "lora"
    done = gemlora("adapters", "convert", folder, output)
    assert done.output.startswith(f"Wrote LoHa as LoRA to {output}: 1 modules, rank 4\n")
    added = gemlora("adapters", "add", "poet", output)
    assert added.status == 0, added.errors
    assert added.output.endswith("rank 4, v_proj\n")
    assert (
        "max_adapter_rank, 3" in gemlora("adapters", "convert", folder, tmp_path / "x", "--max-adapter-rank", 3).errors
    )
