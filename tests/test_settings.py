"""Settings come from flags, variables and a TOML file, in that order, and every mistake is reported at once."""

import os
from pathlib import Path

import pytest

from gemlora.errors import SettingsInvalid
from gemlora.settings import Settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("GEMLORA_", "XDG_")):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gemlora.toml"


def problems(flags: dict[str, object], config: Path | None = None) -> list[str]:
    with pytest.raises(SettingsInvalid) as refusal:
        Settings.load(flags, config)
    return str(refusal.value).splitlines()[1:]


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = 1\nmax_queue = 1\nstep_tokens = 100")
    monkeypatch.setenv("GEMLORA_PORT", "2")
    monkeypatch.setenv("GEMLORA_MAX_QUEUE", "2")

    settings = Settings.load({"port": "3"}, file)

    assert (settings.port, settings.max_queue, settings.step_tokens) == (3, 2, 100)


def test_the_file_may_be_named_by_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = 5")
    monkeypatch.setenv("GEMLORA_CONFIG", str(file))

    assert Settings.load({}).port == 5


def test_all_mistakes_are_reported_with_their_origin_rule_and_an_example(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("max_queue = 0\nhots = 'x'\nquantize = 'int2'")
    monkeypatch.setenv("GEMLORA_LOG_LEVEL", "loud")
    monkeypatch.setenv("GEMLORA_PROT", "1")

    assert problems({"port": "70000"}, file) == [
        "  --port '70000': Input should be less than or equal to 65535; for example 8790",
        f"  {file}: hots is not a setting; did you mean host?",
        f"  {file}: max_queue 0: Input should be greater than or equal to 1; for example 512",
        f"  {file}: quantize 'int2': Input should be 'none', 'int8' or 'int4'; for example int8",
        "  GEMLORA_LOG_LEVEL 'loud': Input should be 'debug', 'info', 'warning' or 'error'; for example info",
        "  GEMLORA_PROT is not a setting; did you mean port?",
    ]


def test_the_worker_templates_variable_does_not_disturb_a_server_in_the_same_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GEMLORA_URL", "http://127.0.0.1:8790")

    assert Settings.load({}).port == 8790


def test_a_mistake_in_a_variable_hides_no_mistake_in_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = 'x'")
    monkeypatch.setenv("GEMLORA_NOTHING_LIKE_IT", "1")

    assert [line.split()[0] for line in problems({}, file)] == [f"{file}:", "GEMLORA_NOTHING_LIKE_IT"]


@pytest.mark.parametrize(
    "token", ["", " ", " s3cret", "s3cret ", "s3cret\t", "s3\ncret", "ü-s3cret", "s3cret\x7f"], ids=repr
)
def test_a_secret_is_never_repeated_in_an_error(token: str) -> None:
    assert problems({"api_token": token}) == [
        "  --api-token (hidden): must be printable ASCII, without blanks at its ends; for example any-text-you-like"
    ]


def test_secrets_do_not_show_in_the_settings_text() -> None:
    settings = Settings.load({"api_token": "s3cret with blanks", "hub_token": "hf_s3cret"})

    assert "s3cret" not in repr(settings)
    assert settings.api_token.get_secret_value() == "s3cret with blanks"


@pytest.mark.parametrize("account_id", ["", "0" * 31, "0" * 33, "g" * 32, "A" * 32, "0" * 32 + "\n"])
def test_an_account_id_has_32_hexadecimal_digits(account_id: str) -> None:
    [line] = problems({"account_id": account_id})

    assert line.startswith("  --account-id")
    assert "0123456789abcdef0123456789abcdef" in line


def test_folders_follow_the_xdg_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    assert Settings.load({}).data_dir == Path("/home/x/.local/share/gemlora")
    assert Settings.load({}).cache_dir == Path("/home/x/.cache/gemlora")

    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert Settings.load({}).data_dir == Path("/data/gemlora")
    assert Settings.load({}).cache_dir == Path("/home/x/.cache/gemlora")


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")

    settings = Settings.load({"data_dir": "~/d", "cache_dir": "~/c", "weights": "~/w.gguf"})

    assert settings.data_dir == Path("/home/x/d")
    assert settings.cache_dir == Path("/home/x/c")
    assert settings.weights == "/home/x/w.gguf"


def test_an_empty_folder_is_an_error_not_the_current_one() -> None:
    assert problems({"data_dir": ""}) == ["  --data-dir '': must not be empty; for example /var/lib/gemlora"]


@pytest.mark.parametrize(("text", "reason"), [("port =", "is not valid TOML"), (None, "No such file")])
def test_an_unreadable_file_is_named(file: Path, text: str | None, reason: str) -> None:
    if text is not None:
        file.write_text(text)

    with pytest.raises(SettingsInvalid, match=reason) as refusal:
        Settings.load({}, file)
    assert str(file) in str(refusal.value)


def test_every_setting_has_a_description_and_an_example_that_is_valid() -> None:
    for key, field in Settings.model_fields.items():
        assert field.description, key
        assert field.examples, key
        Settings.load({key: str(field.examples[0])})


@pytest.mark.parametrize(
    ("preset", "limits"),
    [
        ("none", (256, 2 << 30, 0)),
        ("cloudflare-2024", (8, 100_000_000, 30)),
        ("cloudflare-2026", (32, 300_000_000, 100)),
    ],
)
def test_a_preset_gives_the_limits(preset: str, limits: tuple[int, int, int]) -> None:
    settings = Settings.load({"limits": preset})

    assert (settings.max_adapter_rank, settings.max_adapter_bytes, settings.max_adapters) == limits


def test_what_is_set_goes_before_the_preset(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('limits = "cloudflare-2024"\nmax_adapters = 5')
    monkeypatch.setenv("GEMLORA_MAX_ADAPTER_RANK", "64")

    settings = Settings.load({}, file)

    assert (settings.max_adapter_rank, settings.max_adapter_bytes, settings.max_adapters) == (64, 100_000_000, 5)
    assert "limits" in problems({"limits": "cloudflare-1999"})[0]
