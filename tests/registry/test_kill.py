"""A kill at any step or instant loses nothing acknowledged, shows nothing torn and leaves nothing to do by hand."""

import random
from pathlib import Path

import pytest
from tests.backends import S3Server, postgres_server, postgres_url, s3_server  # noqa: F401
from tests.registry.killing import SCENARIOS, Place, Trial, prepare, survive
from tests.registry.peft_folder import PeftFolder, config, tensors

LEAST_STEPS = {
    "upload": 40,
    "upload, replacing weights": 40,
    "add": 30,
    "publish": 4,
    "remove": 4,
    "collect": 6,
}
"""So that a loop that stops watching does not look like one that survives."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return PeftFolder(config(lora_alpha=8), tensors(seed=2)).write(tmp_path / "victim")


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    """SQLite and a folder."""
    place = Place(tmp_path / "data")
    await prepare(place, PeftFolder().write(tmp_path / "bystander"))
    return place


@pytest.fixture
async def remote_place(
    tmp_path: Path,
    postgres_url: str,  # noqa: F811
    s3_server: S3Server,  # noqa: F811
) -> Place:
    """PostgreSQL and a bucket."""
    place = Place(tmp_path / "data", postgres_url, s3_server.create_bucket(), s3_server.endpoint)
    await prepare(place, PeftFolder().write(tmp_path / "bystander"))
    return place


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_killed_at_any_step(place: Place, folder: Path, scenario: str) -> None:
    trials: list[Trial] = []
    while not trials or not trials[-1].finished:
        trials.append(await survive(place, scenario, folder, step=len(trials) + 1))

    assert len(trials) > LEAST_STEPS[scenario]


async def test_killed_at_random_instants(place: Place, folder: Path) -> None:
    generator = random.Random(4)

    for _ in range(20):
        await survive(place, generator.choice([*SCENARIOS]), folder, seconds=generator.uniform(0, 0.03))


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_killed_at_steps_on_postgres_and_a_bucket(remote_place: Place, folder: Path, scenario: str) -> None:
    for step in random.Random(scenario).sample(range(1, LEAST_STEPS[scenario]), 3):
        trial = await survive(remote_place, scenario, folder, step=step)

        assert not trial.finished
