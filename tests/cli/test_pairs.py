"""Pairs of answers as a person reads them."""

from typing import Any

import pytest

from gemlora.cli.pairs import print_pair, print_pairs

FACTS = {
    "finish_reason": "stop", "completion_tokens": 10, "max_tokens": 99, "characters": 5, "calls": 0, "json": False,
    "seconds": 0.5,
}  # fmt: skip


def pair(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "pair": number, "revision": 1, "made_at": "2026-03-01T00:00:00.000Z", "request_id": "x", "equal": False,
        "error": None, "messages": None, "served": {"version": "v1", **FACTS},
        "shadow": {"version": "v2", **FACTS, "finish_reason": "length", "completion_tokens": 20}, **changes,
    }  # fmt: skip


FAILED = {"error": "AdapterInvalid", "shadow": {"version": "v2"}}


def test_versions_are_compared_by_the_pairs_that_both_answered(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs([pair(3, **FAILED), pair(2, equal=True), pair(1)])

    summary, heads, failed, equal, _ = capsys.readouterr().out.splitlines()
    assert summary == "v1/v2: 2 pairs, 1 equal, mean tokens 10/20, ended by themselves 1/0"
    assert heads.split()[:3] == ["PAIR", "REVISION", "MADE"]
    assert failed.split()[3:] == ["v1", "v2", "no", "stop/-", "10/-", "0.50/-", "AdapterInvalid"]
    assert equal.split()[3:] == ["v1", "v2", "yes", "stop/length", "10/20", "0.50/0.50", "-"]


def test_texts_are_printed_without_what_speaks_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    call = {"name": "weather", "arguments": '{"city": "Rome"}'}
    served = {"version": "v1", **FACTS, "response": "one\n\ntwo\x1b[2J", "tool_calls": []}
    shadow = {"version": "v2", **FACTS, "response": "", "tool_calls": [call]}
    print_pair(pair(1, messages=[{"role": "user", "content": "Hi\x07"}], served=served, shadow=shadow))
    print_pair(pair(2, messages=[], served=served, **FAILED))
    print_pair(pair(3))

    assert capsys.readouterr().out == (
        "--- pair 1, revision 1, 2026-03-01T00:00:00.000Z\n"
        'user: Hi\ufffd\n=> v1: one\n\ntwo\ufffd[2J\n=> v2: weather({"city": "Rome"})\n'
        "--- pair 2, revision 1, 2026-03-01T00:00:00.000Z\n=> v1: one\n\ntwo\ufffd[2J\n=> v2: AdapterInvalid\n"
        "--- pair 3, revision 1, 2026-03-01T00:00:00.000Z\n(texts are not kept)\n"
    )
