"""Stop strings, however the text is cut."""

from hypothesis import given
from hypothesis import strategies as st

from gemlora.serving.stopping import StopStrings

TEXTS = st.text("ab\n😀", max_size=30)


def cut(text: str, stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    stopping = StopStrings(stops)
    out = "".join(map(stopping.push, pieces))
    return out + stopping.finish(), stopping.found


def test_the_answer_ends_before_the_stop_string() -> None:
    assert cut("", ["\n\n"], ["One.", "\n", "\nTwo.", "Three."]) == ("One.", True)


def test_what_may_become_a_stop_string_is_held_back_and_nothing_else() -> None:
    stopping = StopStrings(["END", "aa"])
    assert [stopping.push(piece) for piece in ("the E", "N", "G", "a", "b", "a")] == ["the ", "", "ENG", "", "ab", ""]
    assert stopping.finish() == "a"
    assert not stopping.found


def test_the_stop_string_that_is_complete_first_counts() -> None:
    for pieces in (["xabc"], ["x", "a", "b", "c"]):
        assert cut("", ["abc", "b"], pieces) == ("xa", True)
        assert cut("", ["c", "bc"], pieces) == ("xa", True)


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopStrings([]).push("text") == "text"


@given(TEXTS, st.lists(st.text("ab\n😀", min_size=1, max_size=4), max_size=3), st.lists(st.integers(1, 5)))
def test_the_cuts_change_nothing(text: str, stops: list[str], lengths: list[int]) -> None:
    pieces, rest = [], text
    for length in lengths:
        pieces.append(rest[:length])
        rest = rest[length:]
    out, found = cut(text, stops, [*pieces, rest])
    assert (out, found) == cut(text, stops, [text])
    assert found == any(stop in text for stop in stops)
    assert text.startswith(out)
    assert not any(stop in out for stop in stops)
    assert found or out == text
