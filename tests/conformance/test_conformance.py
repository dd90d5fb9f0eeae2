"""A seeded share of `make soak-conformance`: what the served document says is what the server does."""

from pathlib import Path

from tests.conformance.run import Outcome, conform, fake_server


def test_the_server_does_what_its_document_says(tmp_path: Path) -> None:
    outcome = Outcome()
    with fake_server(tmp_path) as server:
        conform(server, outcome, seed=38, examples=2, steps=5, share=5)

    assert outcome.failures == []
    assert outcome.untried == set()
    assert {200, 400, 401, 403, 404, 405, 409} <= outcome.statuses.keys()
