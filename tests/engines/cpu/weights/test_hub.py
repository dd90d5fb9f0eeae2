"""Pulling checkpoints from a hub on loopback."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.file_download
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file
from tests.fake_hub import FakeHub, running

from gemlora.engines.cpu.weights import hub as gemma_hub
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.prepare import prepare
from gemlora.engines.cpu.weights.progress import silent
from gemlora.errors import WeightsInvalid

REPOSITORY = "google/gemma-tiny"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
WANTED = {"config.json", "model.safetensors.index.json", "tokenizer.model", *SHARDS}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """What the repository holds: files that a conversion reads, and others."""
    folder = tmp_path / "published"
    folder.mkdir()
    for name in ("config.json", "model.safetensors.index.json", "tokenizer.model", "README.md", "gemma.gguf"):
        (folder / name).write_bytes(name.encode() * 3)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))})
    )
    for seed, shard in enumerate(SHARDS):
        save_file({"a": np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)}, folder / shard)
    return folder


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that the library talks to, with a cache of its own."""
    with running(FakeHub()) as fake:
        fake.add(REPOSITORY, published)
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        template = fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _seconds: None)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield fake


def pull(token: str | None = None, revision: str | None = None) -> Path:
    return gemma_hub.pull(REPOSITORY, revision, token, silent)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_a_conversion_reads_is_pulled_and_nothing_else(hub: FakeHub, published: Path) -> None:
    assert contents(pull()) == {name: content for name, content in contents(published).items() if name in WANTED}
    assert hub.loaded("gemma.gguf") == []


def test_what_is_there_is_not_loaded_again(hub: FakeHub) -> None:
    folder = pull()
    hub.requests.clear()
    assert pull() == folder
    assert all(hub.loaded(name) == [] for name in WANTED)


def test_nothing_is_told_about_the_machine_beyond_what_fetches(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(constants, "HF_HUB_USER_AGENT_ORIGIN", None)
    pull()
    told = {part.split("/")[0] for request in hub.requests for part in request.user_agent.split("; ")}
    assert told == {"unknown", "hf_hub", "python"}


def test_progress_counts_the_bytes_of_all_files(hub: FakeHub, published: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    gemma_hub.pull(REPOSITORY, None, None, lambda *report: reports.append(report))
    total = sum((published / shard).stat().st_size for shard in SHARDS)
    assert reports[-1] == ("Downloading", total, total)
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)


def test_a_pulled_checkpoint_is_found_without_the_network(hub: FakeHub) -> None:
    assert gemma_hub.find(REPOSITORY, None) is None
    folder = pull()
    hub.requests.clear()
    assert gemma_hub.find(REPOSITORY, None) == folder
    assert hub.requests == []


def test_a_half_pulled_checkpoint_is_not_found(hub: FakeHub) -> None:
    (pull() / SHARDS[1]).unlink()
    assert gemma_hub.find(REPOSITORY, None) is None


def test_a_cut_connection_goes_on_where_it_stopped(hub: FakeHub, published: Path) -> None:
    hub.cut_after = 5000
    folder = pull()
    assert hub.loaded(SHARDS[0]) == [None, "bytes=5000-"]
    assert (folder / SHARDS[0]).read_bytes() == (published / SHARDS[0]).read_bytes()


def test_a_pull_that_gave_up_goes_on_where_it_stopped(hub: FakeHub, published: Path) -> None:
    hub.cut_after, hub.always_cut = 0, True
    with pytest.raises(WeightsInvalid, match="hub cannot be reached"):
        pull()
    hub.cut_after, hub.always_cut = 5000, False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemma_hub, "http_get", cut_short)
        with pytest.raises(KeyboardInterrupt):
            pull()
    hub.requests.clear()
    folder = pull()
    assert hub.loaded(SHARDS[0]) == ["bytes=5000-"]
    assert (folder / SHARDS[0]).read_bytes() == (published / SHARDS[0]).read_bytes()


def cut_short(url: str, target: object, **options: object) -> None:
    """Load until the connection is cut, then end as on Ctrl-C."""

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.file_download.time, "sleep", interrupt)
        huggingface_hub.file_download.http_get(url, target, **options)


def test_a_hub_without_ranges_is_loaded_from_the_start(hub: FakeHub, published: Path) -> None:
    hub.cut_after, hub.ranges = 5000, False
    assert (pull() / SHARDS[0]).read_bytes() == (published / SHARDS[0]).read_bytes()


def test_a_file_that_arrives_damaged_is_not_kept(hub: FakeHub, published: Path) -> None:
    files = next(iter(hub.repositories[REPOSITORY].values()))
    good = files[SHARDS[0]]
    hub.cut_after = 5000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemma_hub, "http_get", cut_short)
        with pytest.raises(KeyboardInterrupt):
            pull()
    (part,) = (Path(constants.HF_HUB_CACHE) / "models--google--gemma-tiny" / "blobs").glob("*.part")
    part.write_bytes(b"x" * 5000)
    with pytest.raises(WeightsInvalid, match=f"{SHARDS[0]} arrived damaged"):
        pull()
    assert (pull() / SHARDS[0]).read_bytes() == good


def test_a_pinned_revision_stays(hub: FakeHub, published: Path) -> None:
    first = next(iter(hub.repositories[REPOSITORY]))
    (published / "config.json").write_text("newer")
    second = hub.add(REPOSITORY, published)
    assert (pull(revision=first) / "config.json").read_text() != "newer"
    assert (pull() / "config.json").read_text() == "newer"
    assert gemma_hub.find(REPOSITORY, first) != gemma_hub.find(REPOSITORY, second)


def test_the_token_is_sent_with_every_request(hub: FakeHub) -> None:
    hub.token = "hf_right"
    hub.gated.add(REPOSITORY)
    pull("hf_right")
    assert {request.token for request in hub.requests if REPOSITORY in request.path} == {"hf_right"}


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_wrong_token_is_refused(hub: FakeHub, revision: str | None) -> None:
    hub.token = "hf_right"
    with pytest.raises(WeightsInvalid, match=f"{REPOSITORY}: the hub refused the token"):
        pull("hf_wrong", revision)


def test_a_gated_checkpoint_says_what_to_do(hub: FakeHub) -> None:
    hub.gated.add(REPOSITORY)
    with pytest.raises(WeightsInvalid, match=r"is gated: accept its terms .*--token"):
        pull()


def test_unknown_repositories_and_revisions_are_named(hub: FakeHub) -> None:
    with pytest.raises(WeightsInvalid, match=r"no model google/none"):
        gemma_hub.pull("google/none", None, None, silent)
    with pytest.raises(WeightsInvalid, match=f"{REPOSITORY} has no revision v9"):
        pull(revision="v9")
    with pytest.raises(WeightsInvalid, match="Repo id must"):
        gemma_hub.pull("google/-gemma..", None, None, silent)


def test_a_repository_without_safetensors_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pytorch_model.bin").write_bytes(b"x")
    hub.add("google/pickled", tmp_path / "other")
    with pytest.raises(WeightsInvalid, match="google/pickled holds no safetensors"):
        gemma_hub.pull("google/pickled", None, None, silent)
    hub.add("google/bare", tmp_path / "other", **{"model.safetensors": b"x"})
    with pytest.raises(WeightsInvalid, match=r"google/bare holds no config\.json"):
        gemma_hub.pull("google/bare", None, None, silent)


def test_a_hub_id_as_weights_is_pulled_once(
    hub: FakeHub, checkpoint: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint("gemma1")
    hub.add("google/gemma-real", Path(model.oracle.name_or_path))
    packed = prepare("google/gemma-real", None, None, "none", tmp_path / "packed", silent)
    assert PackedModel.open(packed).name == "google/gemma-real"
    assert PackedModel.open(packed).config == model.weights.config
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert prepare("google/gemma-real", None, None, "none", tmp_path / "packed", silent) == packed


def test_a_hub_that_cannot_be_reached_is_explained(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsInvalid, match="was not pulled yet and the hub cannot be reached"):
        pull()
