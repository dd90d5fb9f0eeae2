"""Exported models: read by our own readers, by transformers and the engine; whole, or not there at all."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from sentencepiece import SentencePieceProcessor
from tests.adapters import described
from tests.checkpoints import VOCABULARY
from tests.conversion.conftest import Case
from tests.forward import assert_identical, run
from tests.gguf_files import write_gguf
from transformers import AutoTokenizer

from gemlora.conversion import exporting, huggingface_folder
from gemlora.conversion.exporting import Export, Exported, export
from gemlora.conversion.tokenizer_files import own_template
from gemlora.engines.cpu.adapters import AdapterLoader, PackedFiles
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.weights.checkpoint import Checkpoint
from gemlora.engines.cpu.weights.gguf_checkpoint import GgufCheckpoint
from gemlora.engines.cpu.weights.gguf_file import GgufHeader
from gemlora.engines.cpu.weights.huggingface_checkpoint import opened_folder
from gemlora.engines.cpu.weights.huggingface_export import floats
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.prepare import prepare
from gemlora.engines.cpu.weights.progress import silent
from gemlora.engines.cpu.weights.source import FolderSource, GgufSource, Source
from gemlora.errors import InvalidRequest, StorageFailed, WeightsInvalid
from gemlora.kernels.native import NativeKernels

TOKENS = np.random.default_rng(4).integers(4, VOCABULARY, 30).tolist()


def exported(case: Case, path: Path, format_: Any = "gguf", dtype: Any = "float32", **more: Any) -> Exported:
    return export(FolderSource(case.folder), None, Export(path, format_, dtype, **more), silent)


@contextmanager
def opened_gguf(path: Path) -> Iterator[tuple[Checkpoint, dict[str, Any]]]:
    with Pieces([path]) as pieces:
        yield GgufCheckpoint(pieces), GgufHeader.read(pieces).metadata


@pytest.mark.parametrize("architecture", ["gemma1", "gemma2", "gemma3", "gemma3_mqa", "gemma3_untied"])
def test_a_gguf_file_holds_the_same_model(case: Callable[[str], Case], tmp_path: Path, architecture: str) -> None:
    base, path = case(architecture), tmp_path / "out.gguf"
    exported(base, path)
    with opened_folder(base.folder) as original, opened_gguf(path) as (written, _):
        assert written.tensors.keys() == original.tensors.keys()
        for name, tensor in original.tensors.items():
            np.testing.assert_array_equal(floats(written.tensors[name]), floats(tensor), name)
        both = [replace(each.config, norm_epsilon=1e-6, attention_scale=0.0) for each in (original, written)]
        assert both[0] == both[1]
        assert written.config.attention_scale == pytest.approx(original.config.attention_scale)


def test_the_gguf_library_reads_the_file(case: Callable[[str], Case], tmp_path: Path) -> None:
    exported(case("gemma3"), tmp_path / "out.gguf", dtype="bfloat16")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    kinds = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == GGMLQuantizationType.BF16
    assert kinds["blk.0.attn_q_norm.weight"] == GGMLQuantizationType.F32
    assert reader.get_field("general.architecture").contents() == "gemma3"
    assert reader.get_field("general.file_type").contents() == gguf.LlamaFileType.MOSTLY_BF16
    assert len(reader.get_field("tokenizer.ggml.tokens").contents()) == VOCABULARY


def test_the_vocabulary_of_a_folder_becomes_ggufs(case: Callable[[str], Case], tmp_path: Path) -> None:
    base = case("gemma1_mqa")
    exported(base, tmp_path / "out.gguf")
    original = SentencePieceProcessor(model_file=str(base.folder / "tokenizer.model"))
    with opened_gguf(tmp_path / "out.gguf") as (checkpoint, metadata):
        assert metadata["tokenizer.ggml.tokens"] == [original.id_to_piece(i) for i in range(VOCABULARY)]
        scores = metadata["tokenizer.ggml.scores"].tolist()
        normal = [i for i in range(VOCABULARY) if metadata["tokenizer.ggml.token_type"][i] == 1]
        assert [scores[i] for i in normal] == [original.get_score(i) for i in normal]
        assert {metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown", "padding")} == {
            0, 1, 2, 3,
        }  # fmt: skip
        special = checkpoint.write_vocabulary(tmp_path)
    copied = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in ("the quick brown fox", "what  is é?\n"):
        assert copied.encode(text) == original.encode(text)
    assert special.bos == 2


def test_a_gguf_base_keeps_its_vocabulary_and_loses_its_quantisation(tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "base.gguf", type_of=lambda _name: GGMLQuantizationType.Q8_0)
    source = GgufSource((tmp_path / "base.gguf",))
    result = export(source, None, Export(tmp_path / "out.gguf", "gguf", "float32"), silent)
    assert (result.name, result.for_llama) == ("Tiny", True)
    assert any("quantised" in note for note in result.notes)
    with opened_gguf(tmp_path / "base.gguf") as (_, before), opened_gguf(tmp_path / "out.gguf") as (model, after):
        kept = [key for key in before if key.startswith("tokenizer.")]
        assert len(kept) > 5
        for key in kept:
            np.testing.assert_array_equal(after[key], before[key], key)
        kind, stored = written["blk.1.ffn_up.weight"]
        np.testing.assert_array_equal(floats(model.tensors["layers.1.up_proj"]), gguf.dequantize(stored, kind))


def test_a_base_without_a_chat_template_gets_the_servers(case: Callable[[str], Case], tmp_path: Path) -> None:
    write_gguf(tmp_path / "base.gguf")
    own = own_template()
    sources = {"folder": FolderSource(case("gemma3").folder), "file": GgufSource((tmp_path / "base.gguf",))}
    for name, source in sources.items():
        export(source, None, Export(tmp_path / name, "huggingface", "float32"), silent)
        export(source, None, Export(tmp_path / f"{name}.gguf", "gguf", "float32"), silent)
        assert AutoTokenizer.from_pretrained(tmp_path / name).chat_template == own
        with opened_gguf(tmp_path / f"{name}.gguf") as (_, metadata):
            assert metadata["tokenizer.chat_template"] == own


def test_a_chat_template_that_is_there_stays(case: Callable[[str], Case], tmp_path: Path) -> None:
    base = case("gemma3")
    shutil.copytree(base.folder, tmp_path / "base")
    (tmp_path / "base/chat_template.jinja").write_text("{{ messages }}")
    source: Source = FolderSource(tmp_path / "base")
    for name in ("one", "other"):
        export(source, None, Export(tmp_path / name, "huggingface", "float32"), silent)
        assert AutoTokenizer.from_pretrained(tmp_path / name).chat_template == "{{ messages }}"
        export(source, None, Export(tmp_path / f"{name}.gguf", "gguf", "float32"), silent)
        source = GgufSource((tmp_path / f"{name}.gguf",))


def test_answers_end_with_the_turn_in_transformers_too(case: Callable[[str], Case], tmp_path: Path) -> None:
    base = case("gemma3")
    shutil.copytree(base.folder, tmp_path / "base")
    path = tmp_path / "base/generation_config.json"
    for number, before in enumerate(({"eos_token_id": 1, "top_k": 7}, {"eos_token_id": [1, 5]}, {}, None)):
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_text(json.dumps(before))
        export(FolderSource(path.parent), None, Export(tmp_path / f"{number}", "huggingface", "float32"), silent)
        after = json.loads((tmp_path / f"{number}" / path.name).read_bytes())
        assert after["eos_token_id"] == [1, 5]
        assert (before or {}).get("top_k") == after.get("top_k")


def test_the_engine_computes_from_both_formats_what_it_computes_with_the_adapter(
    case: Callable[[str], Case], tmp_path: Path
) -> None:
    base, kernels = case("gemma3_mqa"), NativeKernels(1)
    model, adapter = base.adapter(use_dora=True)
    ref = described(model, adapter)

    def packed(weights: Path) -> PackedModel:
        return PackedModel.open(prepare(str(weights), None, None, "none", tmp_path / "cache", silent))

    def tokens(weights: PackedModel, lora: Any = None) -> Any:
        return run(Runner(weights, kernels, context=64, kv_cache_bytes=1 << 22), TOKENS, adapter=lora)

    served = packed(base.folder)
    loaded = AdapterLoader(served, "auto", PackedFiles(tmp_path / "packed", 1 << 24), kernels).load(ref)
    expected = tokens(served, loaded).logits
    results = []
    for path in (tmp_path / "out", tmp_path / "out.gguf"):
        kind = "gguf" if path.suffix else "huggingface"
        export(FolderSource(base.folder), ("x", adapter), Export(path, kind, "float32"), silent)
        results.append(tokens(packed(path)))
        assert results[-1].logits.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
        assert np.abs(results[-1].logits - expected).max() < 1e-4 * np.abs(expected).max()
    assert_identical(*results)


def test_large_models_become_several_files_with_an_index(
    case: Callable[[str], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = case("gemma2")
    exported(base, tmp_path / "one", "huggingface")
    monkeypatch.setattr(huggingface_folder.write_huggingface, "__defaults__", (100_000,))
    exported(base, tmp_path / "many", "huggingface")
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_bytes())
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert not (tmp_path / "many/model.safetensors").exists()
    with opened_folder(tmp_path / "one") as one, opened_folder(tmp_path / "many") as many:
        assert one.tensors.keys() == many.tensors.keys()
        for name, tensor in one.tensors.items():
            np.testing.assert_array_equal(floats(many.tensors[name]), floats(tensor))
        assert one.config == many.config


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_rounded_to_the_type_that_is_wanted(
    case: Callable[[str], Case], tmp_path: Path, dtype: str
) -> None:
    base = case("gemma1_mqa")
    result = exported(base, tmp_path / "out", "huggingface", dtype)
    expected = base.oracle.get_input_embeddings().weight.detach().to(getattr(torch, dtype)).float().numpy()
    with opened_folder(tmp_path / "out") as written:
        np.testing.assert_array_equal(floats(written.tensors["embedding"]), expected)
        assert str(written.tensors["embedding"].storage.dtype) == dtype
    assert result.size < (tmp_path / "out/model.safetensors").stat().st_size < result.size + 20_000


def test_numbers_that_the_type_cannot_hold_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    write_gguf(tmp_path / "base.gguf")
    content = bytearray((tmp_path / "base.gguf").read_bytes())
    content[-4:] = np.float32(1e38).tobytes()
    (tmp_path / "base.gguf").write_bytes(content)
    source = GgufSource((tmp_path / "base.gguf",))
    with pytest.raises(WeightsInvalid, match="not finite as float16"):
        export(source, None, Export(tmp_path / "out", "huggingface", "float16"), silent)
    assert [path.name for path in tmp_path.iterdir()] == ["base.gguf"]


@pytest.mark.parametrize("format_", ["huggingface", "gguf"])
def test_what_is_there_is_replaced_by_a_whole_model_or_stays(
    case: Callable[[str], Case], tmp_path: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, path = case("gemma1_mqa"), tmp_path / "out"
    exported(base, path, format_, "bfloat16")
    before = content_of(path)
    with pytest.raises(InvalidRequest, match="--force replaces it"):
        exported(base, path, format_, "float32")

    def full(*_arguments: Any, **_more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gemlora.conversion.formats.Output.chunks", full)
        with pytest.raises(StorageFailed, match=r"out: No space left on device"):
            exported(base, path, format_, "float32", replace=True)
    assert content_of(path) == before
    assert list(tmp_path.iterdir()) == [path]
    exported(base, path, format_, "float32", replace=True)
    assert content_of(path) != before
    assert list(tmp_path.iterdir()) == [path]


def content_of(path: Path) -> dict[str, bytes]:
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}


def test_only_models_are_replaced(case: Callable[[str], Case], tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mum.txt").write_text("dear")
    (tmp_path / "notes.gguf").write_text("dear diary")
    for path in (tmp_path / "letters", tmp_path / "notes.gguf"):
        with pytest.raises(InvalidRequest, match="holds something else"):
            exported(case("gemma1_mqa"), path, "huggingface", replace=True)


def test_what_is_read_is_not_overwritten(case: Callable[[str], Case]) -> None:
    base = case("gemma1_mqa")
    for path in (base.folder, base.folder.parent):
        with pytest.raises(InvalidRequest, match="what is read from"):
            exported(base, path, "huggingface", replace=True)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    case: Callable[[str], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "VOCABULARY_BYTES", 1 << 60)
    with pytest.raises(StorageFailed, match=r"needs 1152921504\.\d GB, but only"):
        exported(case("gemma1_mqa"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_head_that_llama_cpp_would_not_read_is_said(case: Callable[[str], Case], tmp_path: Path) -> None:
    for architecture, reads in (("gemma2_untied", False), ("gemma3_untied", True)):
        result = exported(case(architecture), tmp_path / f"{architecture}.gguf")
        assert result.for_llama is reads
        assert any("llama.cpp" in note for note in result.notes) is not reads
