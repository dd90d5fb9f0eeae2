from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stepping import request

from gemlora.engines.contract import EngineStats, FinishReason
from gemlora.engines.cpu.frames import (
    FAILURES,
    LONGEST_FRAME,
    Cancel,
    Counted,
    Delivered,
    Failed,
    Shutdown,
    Submit,
    command_reader,
    encode,
    event_reader,
)
from gemlora.errors import AdapterInvalid, EngineFailed, PromptTooLong

COMMANDS = [
    Submit(request("a", adapter="one", temperature=0.5, top_k=3, generated=(4, 5), stop=(1,))),
    Cancel("ä"),
    Shutdown(),
]


@given(cuts=st.lists(st.integers(0, 400)))
def test_frames_survive_however_the_stream_is_cut(cuts: list[int]) -> None:
    data = encode(COMMANDS[:1]) + encode(COMMANDS[1:])
    reader = command_reader()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    received = [c for start, end in pairwise(edges) for c in reader.feed(data[start:end])]
    assert received == COMMANDS


def test_events_survive() -> None:
    events = [Delivered("a", (1, 2), FinishReason.STOP), Counted(EngineStats(running=3, step_seconds=0.5))]
    assert event_reader().feed(encode(events)) == events


@pytest.mark.parametrize("kind", FAILURES.values())
def test_errors_keep_their_type_and_text(kind: type[Exception]) -> None:
    (failed,) = event_reader().feed(encode([Failed.of("a", kind("the text"))]))
    assert type(failed.error) is kind
    assert str(failed.error) == "the text"


def test_special_errors_travel_as_their_general_kind() -> None:
    assert Failed.of("a", PromptTooLong(9, 8)).failure == "request"
    assert isinstance(Failed.of("a", AdapterInvalid("")).error, AdapterInvalid)
    assert isinstance(Failed("a", FAILURES and "engine", "").error, EngineFailed)


def test_a_damaged_stream_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="the longest is"):
        command_reader().feed((LONGEST_FRAME + 1).to_bytes(4, "big"))


def test_only_known_frames_are_accepted() -> None:
    with pytest.raises(msgspec.ValidationError):
        command_reader().feed(encode([Delivered("a", ())]))
