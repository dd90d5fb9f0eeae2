"""Every command of accounts, tokens and adapters on a data folder and on the server that runs on it, a real one."""

import asyncio
import io
import json
import os
import re
import socket
import sys
import threading
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
import typer
from tests.cli.conftest import Command, fitting, targets
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, MODEL, RunningServer
from tests.registry.peft_folder import PeftFolder

from gemlora.app.application import open_records
from gemlora.cli.tokens import moment
from gemlora.settings import Settings
from gemlora.storage.servers import notice

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(params=["data folder", "server"])
def target(request: pytest.FixtureRequest, gemlora: Command, server: RunningServer) -> Command:
    """The same on either target."""
    return lambda *arguments: gemlora(*arguments, *targets(server)[request.param])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fitting(base_model_name_or_path=...).write(tmp_path / "peft")


def status_of_run(server: RunningServer, token: str = API_TOKEN, **body: object) -> int:
    url = f"{server.url}/client/v4/accounts/your-account-id/ai/run/{MODEL}"
    headers = {"Authorization": f"Bearer {token}"}
    return requests.post(url, json={"prompt": "x"} | body, headers=headers, timeout=60).status_code


def test_an_adapter_s_whole_life(target: Command, server: RunningServer, folder: Path, tmp_path: Path) -> None:
    added = target("adapters", "add", "poet", folder, "--description", "writes")
    assert re.fullmatch("Added poet \\([0-9a-f-]{36}\\): rank 2, q_proj, v_proj\n", added.output), added.errors
    assert added.errors == ""
    assert status_of_run(server, lora="poet") == 200

    shown = target("adapters", "show", "poet", "--json").json
    assert (shown["description"], shown["ready"], shown["difference"]) == ("writes", True, 1.0)
    assert re.match(f"id +{shown['id']}\n", target("adapters", "show", shown["id"]).output)
    [listed] = target("adapters", "list", "--json").json
    assert listed["id"] == shown["id"]
    assert shown["id"] in target("adapters", "list").output
    again = target("adapters", "add", "poet", folder)
    assert (again.status, again.output) == (1, "")
    assert "exists already" in again.errors

    copy = tmp_path / "new" / "copy"
    assert target("adapters", "download", "poet", copy).output == f"Wrote poet to {copy}\n"
    assert [(copy / name).read_bytes() for name in FILES] == [(folder / name).read_bytes() for name in FILES]
    assert sorted(path.name for path in copy.iterdir()) == sorted(FILES)
    assert "--force" in target("adapters", "download", "poet", copy).errors
    assert target("adapters", "download", "poet", copy, "--force").status == 0

    assert "cf-public-poet" in target("adapters", "publish", "poet", "cf-public-poet").output
    assert target("adapters", "remove", "poet").output == "Removed poet\n"
    assert status_of_run(server, lora="poet") == 404
    assert status_of_run(server, lora="cf-public-poet") == 200
    assert target("adapters", "delete", "cf-public-poet").status == 0
    gone = target("adapters", "remove", "poet")
    assert (gone.status, gone.output, gone.errors.count("\n")) == (1, "", 1)
    assert "poet not found" in gone.errors
    assert target("adapters", "list", "--json").json == []


@pytest.mark.parametrize("name", ["..", ".", "public", "a/b", "a?b#c", "%2e", "ü ø", "-x", "a\\b"])
def test_no_name_leads_astray(gemlora: Command, server: RunningServer, folder: Path, name: str) -> None:
    remote = ("--url", server.url, "--token", API_TOKEN)

    added = gemlora("adapters", "add", "--json", *remote, "--", name, folder)

    assert added.json["name"] == name
    assert gemlora("adapters", "show", "--json", *remote, "--", name).json == added.json
    assert gemlora("adapters", "remove", *remote, "--", name).status == 0
    assert gemlora("adapters", "list", "--json", *remote).json == []


def test_accounts_and_their_tokens(target: Command, gemlora: Command, server: RunningServer) -> None:
    account = target("accounts", "create", "tenant", "--json").json
    assert account["id"] in target("accounts", "list").output
    assert [one["id"] for one in target("accounts", "list", "--json").json] == [ACCOUNT_ID, account["id"]]

    created = target("tokens", "create", "ci", "--account", account["id"], "--expires", "1h")
    token = created.output.strip()
    assert created.output == f"{token}\n"
    assert created.errors.startswith("Created ci (")
    assert status_of_run(server, token) == 200
    [listed] = target("tokens", "list", "--account", account["id"], "--json").json
    assert (listed["name"], listed["scopes"]) == ("ci", ["finetunes:read", "finetunes:write", "run"])
    assert token not in str(listed)
    assert listed["id"] in target("tokens", "list", "--account", account["id"]).output

    own = ("--url", server.url, "--token", token)
    assert gemlora("adapters", "list", "--json", *own).json == []
    for refused in (
        ("adapters", "list", "--account", ACCOUNT_ID),
        ("adapters", "list", "--account", "f" * 32),
        ("tokens", "list"),
        ("accounts", "list"),
        ("accounts", "delete", ACCOUNT_ID, "--yes"),
    ):
        answer = gemlora(*refused, *own)
        assert (answer.status, answer.output) == (1, "")
        assert "another account, or lacks the scope" in answer.errors

    assert target("tokens", "revoke", listed["id"], "--account", account["id"]).output == f"Revoked {listed['id']}\n"
    assert status_of_run(server, token) == 401
    assert "unknown, expired or revoked" in gemlora("adapters", "list", *own).errors
    assert target("tokens", "list", "--account", account["id"], "--json").json == []
    assert "not found" in target("tokens", "revoke", "x", "--account", account["id"]).errors

    assert target("accounts", "delete", account["id"], "--yes").output == f"Deleted {account['id']}\n"
    assert f"{account['id']} not found" in target("accounts", "delete", account["id"], "--yes").errors
    assert f"{account['id']} not found" in target("tokens", "list", "--account", account["id"]).errors


def test_the_running_server_knows_what_its_settings_preset(target: Command, server: RunningServer) -> None:
    [preset] = target("tokens", "list", "--json").json

    assert "api_token" in target("tokens", "revoke", preset["id"]).errors
    assert "first account" in target("accounts", "delete", ACCOUNT_ID, "--yes").errors
    assert status_of_run(server) == 200


def test_an_expired_token_is_told_so(gemlora: Command, server: RunningServer) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=0.5)
    remote = ("--url", server.url, "--token", API_TOKEN)
    token = gemlora("tokens", "create", "short", "--expires", ends.isoformat(), *remote).output.strip()
    while status_of_run(server, token) == 200:
        pass

    assert "unknown, expired or revoked" in gemlora("adapters", "list", "--url", server.url, "--token", token).errors
    [_, listed] = gemlora("tokens", "list", "--json", *remote).json
    assert listed["status"] == "expired"
    assert gemlora("tokens", "revoke", listed["id"], *remote).status == 0


def test_deleting_an_account_asks_first(
    gemlora: Command, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = ("--url", server.url, "--token", API_TOKEN)
    account = gemlora("accounts", "create", "asked", "--json", *remote).json["id"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))

    answer = gemlora("accounts", "delete", account, *remote)

    assert answer.status == 1
    assert account in gemlora("accounts", "list", *remote).output
    assert gemlora("accounts", "delete", account, "--yes", *remote).status == 0


def test_a_refused_upload_leaves_nothing_behind(target: Command, server: RunningServer, tmp_path: Path) -> None:
    """50 MB of zeros, which are no adapter: sent in pieces, not held in memory."""
    folder = PeftFolder().write(tmp_path / "large")
    with (folder / FILES[1]).open("wb") as file:
        file.truncate(50_000_000)

    tracemalloc.start()
    refused = target("adapters", "add", "large", folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (refused.status, refused.output) == (1, "")
    assert "Uploading adapter_model.safetensors 50 MB\n" in refused.errors
    assert "safetensors" in refused.errors.splitlines()[-1]
    assert peak < 20_000_000
    assert target("adapters", "list", "--json").json == []
    missing = target("adapters", "add", "large", tmp_path)
    assert missing.errors == f"Error: adapter_config.json is missing in {tmp_path}\n"


def test_names_cannot_speak_to_the_terminal(target: Command, folder: Path) -> None:
    escape = "x\x1b[2J\r\u202ey"
    account = target("accounts", "create", escape, "--json")
    token = target("tokens", "create", escape)
    adapter = target("adapters", "add", "hostile", folder, "--description", escape)

    answers = [account, token, adapter, target("accounts", "list"), target("tokens", "list")]
    answers += [target("adapters", "show", "hostile"), target("adapters", "show", escape)]
    target("adapters", "remove", "hostile")

    shown = "".join(answer.output + answer.errors for answer in answers[1:])
    assert [mark for mark in ("\x1b", "\r", "\u202e") if mark in shown] == []
    for one in target("accounts", "list", "--json").json:
        if one["id"] != ACCOUNT_ID:
            target("accounts", "delete", one["id"], "--yes")
    for one in target("tokens", "list", "--json").json:
        if one["name"] == escape:
            target("tokens", "revoke", one["id"])


def test_an_upload_that_was_cut_off_is_no_obstacle(target: Command, server: RunningServer, folder: Path) -> None:
    url = f"{server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/finetunes"
    left = {"name": "poet", "model": MODEL, "description": ""}
    assert requests.post(url, json=left, headers=server.authorization, timeout=60).status_code == 200

    assert target("adapters", "add", "poet", folder).status == 0
    assert target("adapters", "remove", "poet").status == 0


def test_variables_name_the_server_and_flags_win(
    gemlora: Command, server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMLORA_URL", f"{server.url}/client/v4/")
    assert "wants a token" in gemlora("accounts", "list").errors
    monkeypatch.setenv("GEMLORA_API_TOKEN", API_TOKEN)
    assert ACCOUNT_ID in gemlora("accounts", "list").output
    assert gemlora("accounts", "list", "--json", "--data-dir", tmp_path / "empty").json == []
    both = gemlora("accounts", "list", "--url", server.url, "--data-dir", tmp_path)
    assert both.errors == "Error: --url and --data-dir exclude each other\n"
    monkeypatch.delenv("GEMLORA_URL")
    assert "--url" in gemlora("accounts", "list", "--token", "x").errors


def test_a_server_that_does_not_answer_is_named_with_the_reason(gemlora: Command, folder: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        remote = gemlora("adapters", "list", "--url", url, "--token", "x")
        with notice(tmp_path / "data" / "servers") as publish:
            publish(url)
            local = gemlora("adapters", "add", "poet", folder, "--engine", "fake", "--data-dir", tmp_path / "data")

    for answer in (remote, local):
        assert (answer.status, answer.output) == (1, "")
        assert answer.errors.startswith(f"Error: The server at {url} does not answer: ")
        assert answer.errors.count("\n") == 1
    assert f"(process {os.getpid()} runs on {tmp_path / 'data'})" in local.errors
    names = [token["name"] for token in gemlora("tokens", "list", "--json", "--data-dir", tmp_path / "data").json]
    assert names == ["first"], "the lent token was returned"


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (200, b"<html>hello</html>", "not as gemlora does"),
        (200, b"[]", "not as gemlora does"),
        (500, b'{"success": false, "result": null, "errors": []}', "not as gemlora does"),
        (400, b'{"success":false,"result":null,"errors":[{"code":1,"message":"\\u001b[2Jx"}]}', "refuses: \ufffd[2Jx"),
        (302, b"", "not as gemlora does"),
    ],
)
def test_another_kind_of_server_is_not_trusted(gemlora: Command, status: int, body: bytes, text: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("location", "http://127.0.0.1:1/")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.handle_request)
        thread.start()
        answer = gemlora("adapters", "list", "--url", f"http://127.0.0.1:{other.server_port}", "--token", "x")
        thread.join()

    assert answer.status == 1
    assert text in answer.errors


def test_without_a_server_commands_act_on_the_folder(gemlora: Command, folder: Path, tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "data")

    account = gemlora("accounts", "create", "tenant", "--json", *data).json["id"]
    token = gemlora("tokens", "create", "key", "--account", account, "--scope", "run", "--json", *data).json
    assert token["scopes"] == ["run"]
    own = ("--account", account, *data)
    assert gemlora("adapters", "add", "poet", folder, "--engine", "fake", *own).status == 0
    assert gemlora("adapters", "list", "--json", *data).json == []
    assert [one["name"] for one in gemlora("adapters", "list", "--json", *own).json] == ["poet"]
    assert gemlora("adapters", "publish", "poet", "cf-public-poet", *own).status == 0
    assert gemlora("adapters", "show", "cf-public-poet", "--json", *data).json["public"] is True
    assert gemlora("tokens", "revoke", token["id"], *own).status == 0
    assert "cf-public-poet" in gemlora("accounts", "delete", account, "--yes", *data).errors
    assert gemlora("adapters", "remove", "cf-public-poet", *own).status == 0
    assert gemlora("accounts", "delete", account, "--yes", *data).status == 0
    assert len(gemlora("accounts", "list", "--json", *data).json) == 1


def test_no_token_reaches_the_log(gemlora: Command, server: RunningServer, folder: Path) -> None:
    remote = ("--url", server.url, "--token", API_TOKEN)
    token = gemlora("tokens", "create", "logged", "--json", *remote).json
    gemlora("adapters", "list", "--url", server.url, "--token", token["value"])
    gemlora("adapters", "add", "logged", folder, "--data-dir", server.data_dir)
    gemlora("adapters", "remove", "logged", "--data-dir", server.data_dir)
    gemlora("tokens", "revoke", token["id"], *remote)

    lines = [line for line in server.log.read_text().splitlines() if line.startswith("{")]

    assert any("token created" in line for line in lines)
    assert [line for line in lines if token["value"] in line or API_TOKEN in line] == []


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("90m", NOW + timedelta(minutes=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("30d", NOW + timedelta(days=30)),
        ("2027-01-31T12:00:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
        ("2027-01-31", datetime(2027, 1, 31).astimezone(UTC)),
    ],
)
def test_when_a_token_ends(text: str, when: datetime) -> None:
    assert moment(text, NOW) == when


@pytest.mark.parametrize("text", ["", "12", "-1d", "1w", "999999999d", "tomorrow", "1.5h"])
def test_what_is_no_time_is_a_usage_error(gemlora: Command, text: str, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter):
        moment(text, NOW)
    answer = gemlora("tokens", "create", "x", f"--expires={text}", "--data-dir", tmp_path / "data")
    assert answer.status == 2
    assert asyncio.run(accounts_of(tmp_path / "data")) == 0


async def accounts_of(data: Path) -> int:
    async with open_records(Settings(data_dir=data)) as records:
        return await records.accounts.count()


def test_an_alias_is_set_promoted_rolled_back_and_removed(
    target: Command, gemlora: Command, server: RunningServer, folder: Path, tmp_path: Path
) -> None:
    gemlora("adapters", "add", "pointed", folder, "--data-dir", server.data_dir)
    test = tmp_path / "test.json"
    declared = {"control": "cf-public-base", "candidate": "pointed", "metric": "solved", "effect": 0.5}
    test.write_text(json.dumps(declared))

    assert target("aliases", "set", "bot", "cf-public-base=1").output == "bot is at revision 1: cf-public-base=1\n"
    split = target("aliases", "set", "bot", "cf-public-base=9", "pointed=1", "--note", "try", "--test", test, "--json")
    assert split.json["test"]["verdict"] == "running"
    shown = target("aliases", "show", "bot").output
    assert shown.splitlines()[-1] == "Test of solved: pointed against cf-public-base: running"
    assert target("aliases", "list").output.splitlines()[1].split() == ["bot", "2", "cf-public-base=9,pointed=1"]
    assert "cf-public-base=0, pointed=1" in target("aliases", "promote", "bot", "pointed").output
    assert "bot is at revision 4: cf-public-base=9, pointed=1" in target("aliases", "rollback", "bot").output
    log = target("aliases", "log", "bot", "--json").json
    assert [one["action"] for one in log] == ["rollback", "promote", "set", "create"]
    assert target("aliases", "log", "bot").output.splitlines()[3].endswith("try")
    refused = gemlora("adapters", "remove", "pointed", "--data-dir", server.data_dir)
    assert (refused.status, "alias bot points to" in refused.errors) == (1, True)
    assert target("aliases", "set", "bot", "pointed").errors == "Error: pointed: must be VERSION=WEIGHT\n"
    assert target("aliases", "remove", "bot").output == "Removed bot\n"
    assert "Alias bot not found" in target("aliases", "show", "bot").errors
    assert "Alias bot not found" in target("aliases", "shadows", "bot").errors
    gemlora("adapters", "remove", "pointed", "--data-dir", server.data_dir)


def test_a_shadow_answers_unseen_and_its_pairs_are_shown(
    target: Command, gemlora: Command, server: RunningServer, folder: Path
) -> None:
    gemlora("adapters", "add", "unseen", folder, "--data-dir", server.data_dir)
    shadowed = target("aliases", "set", "bot", "cf-public-base=1", "--shadow", "unseen=1")
    assert shadowed.output == "bot is at revision 1: cf-public-base=1, unseen=0 (shadow 1)\n"
    assert status_of_run(server, lora="bot") == 200
    deadline = time.monotonic() + 20
    while "1/0/0" not in target("aliases", "show", "bot").output:
        assert time.monotonic() < deadline

    summary, _, row = target("aliases", "shadows", "bot").output.splitlines()
    assert summary.startswith("cf-public-base/unseen: 1 pairs, 0 equal, mean tokens 24/24, ended by themselves 1/1")
    assert row.split()[3:8] == ["cf-public-base", "unseen", "no", "stop/stop", "24/24"]
    assert "(texts are not kept)" in target("aliases", "shadows", "bot", "--texts").output
    [pair] = target("aliases", "shadows", "bot", "--json").json
    assert (pair["pair"], pair["revision"], pair["error"], pair["messages"]) == (1, 1, None, None)
    wrong = target("aliases", "set", "bot", "cf-public-base=1", "--shadow", "unseen")
    assert wrong.errors == "Error: unseen: must be VERSION=SHARE\n"
    target("aliases", "remove", "bot")
    gemlora("adapters", "remove", "unseen", "--data-dir", server.data_dir)
