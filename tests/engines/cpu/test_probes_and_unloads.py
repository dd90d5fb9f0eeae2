"""Probing and unloading of adapters in the step loop, beside requests."""

import logging

import numpy as np
import pytest
from tests.stepping import BROKEN, PROBE_PROMPT, Bench, alone, logits_of, request

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.frames import ProbeAdapter, Probed, Started, UnloadAdapter, Unloaded
from gemlora.kernels import LoraWeights


def probe(bench: Bench, id: str, adapter: str) -> None:
    bench.mailbox.commands.append(ProbeAdapter(id, AdapterRef(adapter, "", "", "")))


def unload(bench: Bench, id: str, digest: str) -> None:
    bench.mailbox.commands.append(UnloadAdapter(id, digest))


def differences(bench: Bench) -> dict[str, float]:
    return {event.id: event.difference for event in bench.mailbox.events if isinstance(event, Probed)}


def expected_difference(adapter: str) -> float:
    tokens = np.array(PROBE_PROMPT, np.int32)
    plain, adapted = logits_of(tokens, None), logits_of(tokens, LoraWeights(adapter, {}))
    return float(np.abs(adapted - plain).max() / np.abs(plain).max())


def test_a_probe_compares_the_logits_with_and_without_the_adapter() -> None:
    bench = Bench()
    for name in ("one", "two"):
        probe(bench, name, name)
    bench.run()
    assert differences(bench) == {name: expected_difference(name) for name in ("one", "two")}
    assert expected_difference("one") > 0
    assert bench.scheduler.free_blocks == bench.scheduler.blocks
    assert not bench.adapters.users
    assert bench.stats().output_tokens == 0


def test_probes_and_requests_do_not_disturb_each_other() -> None:
    requests = [request(str(i), [i + 1] * 30, adapter=["one", "two", None][i % 3], max_tokens=20) for i in range(6)]
    bench = Bench(step_tokens=16, adapters=2)
    bench.submit(*requests)
    for number in range(6):
        probe(bench, f"probe {number}", ["one", "three"][number % 2])
        bench.step(4)
    bench.run()
    assert [bench.tokens(one.id) for one in requests] == alone(*requests)
    assert differences(bench) == {
        f"probe {number}": expected_difference(["one", "three"][number % 2]) for number in range(6)
    }


def test_a_probe_of_a_broken_adapter_fails_with_the_reason() -> None:
    bench = Bench()
    probe(bench, "a", BROKEN)
    bench.run()
    assert bench.failure("a").failure == "adapter"
    assert bench.failure("a").message == "this adapter is broken"


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_cancelled_probe_leaves_nothing_behind(steps: int) -> None:
    bench = Bench(step_tokens=2)
    probe(bench, "a", "one")
    bench.step(1 + steps)
    bench.cancel("a")
    bench.run()
    assert differences(bench) == {}
    assert bench.scheduler.free_blocks == bench.scheduler.blocks
    assert not bench.adapters.users


def test_a_probe_survives_preemption_in_either_half() -> None:
    for steps in (2, 4):
        bench = Bench(step_tokens=2)
        probe(bench, "a", "one")
        bench.step(steps)
        bench.scheduler.preempt(bench.running("a"))
        bench.run()
        assert differences(bench) == {"a": expected_difference("one")}


def test_unloading_frees_an_idle_adapter_and_deletes_its_files() -> None:
    bench = Bench()
    bench.submit(request("a", adapter="one"))
    bench.run()
    unload(bench, "gone", "one")
    bench.step(2)
    assert [event for event in bench.mailbox.events if isinstance(event, Unloaded)] == [Unloaded("gone")]
    assert bench.loader.discarded == ["one"]
    assert bench.stats().adapters == bench.stats().adapter_bytes == 0


def test_a_request_keeps_its_adapter_when_that_is_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemlora.engines.cpu.engine.REPORT_SECONDS", 0)
    one = request("a", adapter="one", max_tokens=20)
    bench = Bench()
    bench.submit(one)
    bench.step(5)
    unload(bench, "gone", "one")
    bench.step(2)
    assert bench.stats().adapters == 1
    bench.run()
    bench.step()
    assert bench.tokens("a") == alone(one)[0]
    assert bench.stats().adapters == 0


def test_an_adapter_may_be_unloaded_while_a_request_waits_for_it() -> None:
    one = request("a", adapter="one")
    bench = Bench()
    bench.submit(one)
    assert bench.loop.step()
    unload(bench, "gone", "one")
    bench.run()
    bench.step(2)
    assert bench.tokens("a") == alone(one)[0]
    assert bench.stats().adapters == 0


def test_files_that_cannot_be_deleted_are_an_error(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    def refuse(_digest: str) -> None:
        raise PermissionError("not yours")

    bench.loader.discard = refuse  # type: ignore[method-assign]
    unload(bench, "gone", "one")
    with caplog.at_level(logging.CRITICAL):
        bench.step(2)
    assert bench.failure("gone").failure == "engine"
    assert "could not be deleted" in bench.failure("gone").message


def test_who_waits_for_an_adapter_is_named_once_before_it_is_read() -> None:
    bench = Bench()
    bench.submit(request("a", adapter="one"))
    assert bench.loop.step()
    assert [event for event in bench.mailbox.events if isinstance(event, Started)] == [Started("a")]
    bench.run()
    assert len([event for event in bench.mailbox.events if isinstance(event, Started)]) == 1
