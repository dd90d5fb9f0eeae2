"""`gemlora evaluate` on a data folder with and without a server, on a server, and on a tiny model."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Command, fitting, targets, write_cases
from tests.e2e.running_server import API_TOKEN, RunningServer

CASES = [{"id": f"case {n}", "prompt": f"question {n}", "expected": f"answer {n}"} for n in range(7)]


@pytest.fixture(scope="module")
def server(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    """The server with an adapter."""
    added = server.command_line("adapters", "add", "poet", str(fitting().write(tmp_path_factory.mktemp("poet"))))
    assert added.returncode == 0, added.stderr
    return server


@pytest.mark.parametrize("target", ["data folder", "server"])
def test_a_running_server_answers_for_the_base_and_an_adapter(
    gemlora: Command, server: RunningServer, tmp_path: Path, target: str
) -> None:
    done = gemlora(
        "evaluate", write_cases(tmp_path, CASES), "--adapter", "poet", "--scorer", "f1", "--scorer", "json",
        "--json", "result.json", "--report", "report.html", "--max-tokens", 5, *targets(server)[target],
    )  # fmt: skip

    assert done.status == 0, done.errors
    assert done.output.splitlines()[0].split() == ["SCORE", "OF", "CASES", "MEAN", "DIFFERENCE", "WON/TIED/LOST"]
    assert "poet and base model: no difference shown in f1" in done.output
    result = json.loads((tmp_path / "result.json").read_text())
    assert [case["id"] for case in result["cases"]] == [case["id"] for case in CASES]
    for case, asked in zip(result["cases"], CASES, strict=True):
        base, poet = case["answers"]
        assert base["text"] == server.text({"prompt": asked["prompt"], "max_tokens": 5, "temperature": 0, "lora": ""})
        assert poet["text"] != base["text"]
        assert base["cut"]
    assert result["facts"]["Answers of base model"] == "none"
    assert re.fullmatch("poet@[0-9a-f]{64}", result["facts"]["Answers of poet"])
    assert result["facts"]["Answers"].startswith("14 of 14, 16 requests at once")
    assert "question 6" in (tmp_path / "report.html").read_text()
    assert '"command line"' not in server.command_line("tokens", "list", "--json").stdout  # it was given back


def test_without_a_server_there_is_one_for_the_evaluation(gemlora: Command, tmp_path: Path) -> None:
    here = ("--data-dir", tmp_path / "data", "--engine", "fake")
    assert gemlora("adapters", "add", "poet", fitting().write(tmp_path / "poet"), *here).status == 0

    done = gemlora(
        "evaluate", write_cases(tmp_path, CASES), "--adapter", "poet", "--no-base", "--json", "r.json", *here
    )

    assert done.status == 0, done.errors
    result = json.loads((tmp_path / "r.json").read_text())
    assert [one["label"] for one in result["contenders"]] == ["poet"]
    assert all(case["answers"][0]["text"] for case in result["cases"])
    assert (
        json.loads(gemlora("tokens", "list", "--json", "--data-dir", tmp_path / "data").output)[0]["name"]
        != "command line"
    )
    assert gemlora("evaluate", write_cases(tmp_path, CASES), "--json", "again.json", *here).status == 0


def test_own_scorers_are_found_in_the_folder(gemlora: Command, server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "own_scorer.py").write_text("def letters(case, answer): return len(answer) + len(case['prompt'])\n")

    done = gemlora(
        "evaluate", write_cases(tmp_path, CASES), "--scorer", "own_scorer:letters", *targets(server)["data folder"]
    )

    assert done.status == 0, done.errors
    assert re.search(r"own_scorer:letters +base model +7 +\d\d\.", done.output)


def test_judgements_need_no_cases_and_no_server(gemlora: Command, tmp_path: Path) -> None:
    pairs = [
        {"left": "Base model", "right": "poet", "verdict": verdict} for verdict in ["better"] * 8 + ["worse", None]
    ]
    (tmp_path / "comparisons.json").write_text(json.dumps([{"pairs": pairs}]))

    done = gemlora("evaluate", "--judgements", "comparisons.json", "--report", "r.html", "--json", "r.json",
                   "--data-dir", tmp_path / "data")  # fmt: skip

    assert done.status == 0, done.errors
    assert done.output.startswith(
        "poet beside Base model, judged by hand: 8 better, 0 same, 1 worse, 1 not judged; share better 0.889"
    )
    assert json.loads((tmp_path / "r.json").read_text())["judgements"][0]["better"] == 8
    assert "Judged by hand" in (tmp_path / "r.html").read_text()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Name a file of cases, or --judgements"),
        (["cases.jsonl", "--no-base"], "There is nothing to evaluate"),
        (["missing.jsonl"], "missing.jsonl: cannot be read: No such file"),
        (["cases.jsonl", "--scorer", "bleu"], "No scorer bleu"),
        (["cases.jsonl", "--scorer", "json_fields"], "line 1: json_fields needs an expected JSON object"),
        (["cases.jsonl", "--report", "nowhere/report.html"], "no such folder"),
        (["cases.jsonl", "--json", "."], "a folder"),
        (["cases.jsonl", "--adapter", "unknown"], "refuses with 404: .*Finetune unknown not found"),
        (["cases.jsonl", "--perplexity"], "A server does not tell probabilities"),
        (["cases.jsonl", "--model", "@cf/other"], "The server has no model @cf/other"),
        (["cases.jsonl", "--token", "wrong"], "refuses with 401"),
    ],
)
def test_refusals_are_one_line_and_leave_no_file(
    gemlora: Command, server: RunningServer, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    write_cases(tmp_path, CASES)
    token = [] if "--token" in arguments else ["--token", API_TOKEN]
    files = [] if {"--report", "--json"} & {*arguments} else ["--report", "report.html"]

    done = gemlora("evaluate", *arguments, *files, "--url", server.url, *token)

    assert done.status == 1
    assert re.search(reason, done.errors)
    assert done.errors.splitlines()[-1].startswith("Error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["cases.jsonl"]


def test_answers_that_fail_are_counted(gemlora: Command, tmp_path: Path) -> None:
    long = {"id": "long", "prompt": "much " * 400, "expected": "x"}
    here = ("--data-dir", tmp_path / "data", "--engine", "fake", "--context-window", "1000")

    done = gemlora("evaluate", write_cases(tmp_path, [*CASES, long]), "--json", "r.json", *here)

    assert done.status == 0
    assert "Warning: 1 of 8 answers are missing and have no score: 413, code 5021" in done.errors
    assert json.loads((tmp_path / "r.json").read_text())["failed"] == 1
    alone = gemlora("evaluate", write_cases(tmp_path, [long]), *here)
    assert (alone.status, "No answer came: 413" in alone.errors) == (1, True)


def test_an_interrupt_leaves_no_report(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "stop_here.py").write_text(
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell has it ignored\n"
        "def score(case, answer):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return 1.0\n"
    )  # fmt: skip
    command = [
        *(sys.executable, "-c", "from gemlora.cli import main; main()", "evaluate", write_cases(tmp_path, CASES)),
        *("--scorer", "stop_here:score", "--report", "report.html", "--json", "r.json", *targets(server)["server"]),
    ]

    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode in (1, 130, -signal.SIGINT)
    assert "Traceback" not in ended.stderr
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".jsonl", ".py"}
