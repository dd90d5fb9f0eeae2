"""What `gemlora serve` prints once it answers."""

from tests.registry.peft_folder import MODEL

from gemlora.accounts.service import FirstAccess
from gemlora.app.application import Announcement
from gemlora.cli.serve import welcome

ACCOUNT = "0" * 32


def test_the_welcome_has_everything_that_a_client_needs() -> None:
    text = welcome(Announcement("http://127.0.0.1:8790", FirstAccess(ACCOUNT, "token"), MODEL))

    lines = [line.split(maxsplit=2) for line in text.splitlines()]
    assert ["Base", "URL", "http://127.0.0.1:8790/client/v4"] in lines
    assert ["Account", "id", ACCOUNT] in lines
    assert ["Token", "token"] in lines
    assert ["Playground", "http://127.0.0.1:8790/"] in lines
    assert MODEL.notice in text
    [curl] = [line for line in text.splitlines() if line.strip().startswith("curl ")]
    assert f"http://127.0.0.1:8790/client/v4/accounts/{ACCOUNT}/ai/run/@cf/google/gemma-7b-it-lora" in curl


def test_a_code_stands_where_browsers_send_nothing() -> None:
    text = welcome(Announcement("http://127.0.0.1:8790", FirstAccess(ACCOUNT, "token"), MODEL, "one-time"))

    assert "http://127.0.0.1:8790/#code=one-time" in text


def test_a_token_of_which_only_the_hash_is_known_is_not_made_up() -> None:
    text = welcome(Announcement("http://127.0.0.1:8790", FirstAccess(ACCOUNT, None), MODEL))

    assert "set GEMLORA_API_TOKEN" in text
    assert '"Authorization: Bearer $GEMLORA_API_TOKEN"' in text
