"""Every constrained text ends as its grammar demands, whatever is drawn and however few tokens it may have."""

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher

from gemlora.engines.constraints import ConstrainedText, GrammarVocabulary, Taken, closing, compile_grammar
from gemlora.engines.contract import FinishReason
from gemlora.errors import ConstraintInvalid, ConstraintUnmet

END = 259
STOP = 258
WORDS = [b'{"', b'":', b'","', b'"}', b'"]', b"}]", b"[[", b"name", b"\xc3\xa4", b"  ", b"true", b"null", b"12"]
TOKENS = [*(bytes([byte]) for byte in range(256)), b"", b"", b"", b"", *WORDS]
BOUNDS = (1, 2, 3, 5, 8, 13, 21, 34, 60)

Draw = Callable[[list[int]], int]


@pytest.fixture(scope="module", params=[len(TOKENS), 288], ids=["273 tokens", "whole words of the mask"])
def vocabulary(request: pytest.FixtureRequest) -> GrammarVocabulary:
    return GrammarVocabulary([*TOKENS, *[b""] * (request.param - len(TOKENS))], END)


def random_schema(random: Random, depth: int = 0) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern"]
    kind = random.choice([*kinds, *["object", "array", "anyOf"] * (3 if depth < 2 else 0)])
    match kind:
        case "enum":
            return {"enum": random.sample(["red", "green", "blue", 7, None, True], 3)}
        case "const":
            return {"const": random.choice(["a longer constant text", 3, "x"])}
        case "pattern":
            return {"type": "string", "pattern": random.choice(["^[a-c]{3,6}$", "^\\d{4}-\\d\\d$"])}
        case "string":
            return random.choice([{"type": "string"}, {"type": "string", "minLength": 2, "maxLength": 9}])
        case "integer":
            return random.choice([{"type": "integer"}, {"type": "integer", "minimum": 10, "maximum": 999}])
        case "array":
            return {"type": "array", "items": random_schema(random, depth + 1), "minItems": random.choice([0, 0, 2])}
        case "anyOf":
            return {"anyOf": [random_schema(random, depth + 1) for _ in range(2)]}
        case "object":
            properties = {name: random_schema(random, depth + 1) for name in random.sample(["a", "name", "tag"], 2)}
            required = [name for name in properties if random.random() < 0.6]
            return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": kind}


def start(
    vocabulary: GrammarVocabulary, grammar: str, room: int, stop_tokens: tuple[int, ...] = (STOP,)
) -> ConstrainedText:
    return ConstrainedText(vocabulary, compile_grammar(grammar, vocabulary, 500_000), stop_tokens, room)


def write(text: ConstrainedText, draw: Draw, prefix: tuple[int, ...] = ()) -> tuple[list[Taken], FinishReason]:
    """What was taken until the text ended."""
    taken: list[Taken] = []
    ended = text.resume(prefix)
    if ended is not None and ended.finish_reason is not None:
        return [ended], ended.finish_reason
    while True:
        masks = np.empty((1, text.words), np.uint32)
        text.masks((), masks)
        allowed = np.flatnonzero(np.unpackbits(masks.view(np.uint8), bitorder="little")).tolist()
        token = draw(allowed)
        if token in (STOP, END):
            return taken, FinishReason.STOP
        taken.append(text.take(token))
        if (reason := taken[-1].finish_reason) is not None:
            return taken, reason


def drawing(seed: int) -> Draw:
    random = Random(seed)
    return lambda allowed: random.choice(allowed)


def tokens_of(taken: list[Taken]) -> list[int]:
    return [token for one in taken for token in one.tokens]


def spelled(vocabulary: GrammarVocabulary, tokens: list[int]) -> str:
    return b"".join(map(vocabulary.spelling, tokens)).decode()


@pytest.mark.parametrize("number", range(40))
def test_every_answer_is_valid_at_every_bound_or_there_is_none(vocabulary: GrammarVocabulary, number: int) -> None:
    schema = random_schema(Random(number))
    grammar = LLMatcher.grammar_from_json_schema(schema)
    shortest = len(start(vocabulary, grammar, 1000).closing)
    for room in (*BOUNDS, shortest, shortest + 1):
        if room < shortest:
            with pytest.raises(ConstraintUnmet, match="tokens"):
                start(vocabulary, grammar, room)
            continue
        taken, reason = write(start(vocabulary, grammar, room), drawing(room))
        tokens = tokens_of(taken)
        assert len(tokens) <= room
        jsonschema.validate(json.loads(spelled(vocabulary, tokens)), schema)
        assert reason is FinishReason.STOP or len(tokens) + shortest + 40 > room


@pytest.mark.parametrize("number", range(12))
def test_a_text_continues_with_the_same_tokens_wherever_it_was_cut(vocabulary: GrammarVocabulary, number: int) -> None:
    grammar = LLMatcher.grammar_from_json_schema(
        {"type": "array", "items": random_schema(Random(number)), "minItems": number % 2}
    )
    room = len(start(vocabulary, grammar, 1000).closing) + 12

    def draw_at(index: int) -> Draw:
        return lambda allowed: Random(f"{number}/{index}").choice(allowed)

    def continued(prefix: tuple[int, ...]) -> tuple[list[Taken], FinishReason]:
        index = len(prefix)

        def draw(allowed: list[int]) -> int:
            nonlocal index
            index += 1
            return draw_at(index)(allowed)

        return write(start(vocabulary, grammar, room), draw, prefix)

    whole, reason = continued(())
    tokens = tokens_of(whole)
    for cut in range(len(whole)):
        prefix = tuple(tokens_of(whole[:cut]))
        rest, same = continued(prefix)
        assert (*prefix, *tokens_of(rest)) == tuple(tokens)
        assert same is reason


def test_an_early_end_says_so_and_a_complete_text_does_not(vocabulary: GrammarVocabulary) -> None:
    grammar = LLMatcher.grammar_from_json_schema({"type": "string"})
    taken, reason = write(
        start(vocabulary, grammar, 10), lambda allowed: ord("x") if ord("x") in allowed else allowed[0]
    )
    assert (spelled(vocabulary, tokens_of(taken)), reason) == ('"' + "x" * 8 + '"', FinishReason.LENGTH)
    taken, reason = write(
        start(vocabulary, grammar, 10), lambda allowed: ord('"') if ord('"') in allowed else allowed[0]
    )
    assert (spelled(vocabulary, tokens_of(taken)), reason) == ('""', FinishReason.STOP)


def test_a_text_that_may_end_anywhere_has_all_its_tokens(vocabulary: GrammarVocabulary) -> None:
    grammar = LLMatcher.grammar_from_lark("start: /[a-z]*/")
    taken, reason = write(start(vocabulary, grammar, 7), lambda allowed: ord("k"))
    assert (spelled(vocabulary, tokens_of(taken)), reason) == ("k" * 7, FinishReason.LENGTH)


def test_stop_tokens_may_come_where_the_text_may_end_and_nowhere_else(vocabulary: GrammarVocabulary) -> None:
    text = start(vocabulary, LLMatcher.grammar_from_lark('start: "ab" "c"?'), 5, (STOP, ord("b"), ord("z")))
    masks = np.empty((2, text.words), np.uint32)
    text.masks((ord("a"),), masks)
    assert vocabulary.tokens_of(masks[0]).tolist() == [ord("a")]
    text = start(vocabulary, LLMatcher.grammar_from_lark('start: "ab" "c"?'), 5, (STOP, ord("z")))
    masks = np.empty((3, text.words), np.uint32)
    text.masks(b"ab", masks)
    assert [vocabulary.tokens_of(mask).tolist() for mask in masks] == [[97], [98], [99, ord("z"), STOP]]


def test_masks_behind_a_draft_are_those_behind_the_same_text(vocabulary: GrammarVocabulary) -> None:
    grammar = LLMatcher.grammar_from_json_schema({"type": "array", "items": {"type": "integer"}})
    draft = tuple(b"[1,23]")
    ahead, one_by_one = start(vocabulary, grammar, 50), start(vocabulary, grammar, 50)
    masks = np.empty((len(draft) + 1, ahead.words), np.uint32)
    ahead.masks(draft, masks)
    for place, token in enumerate(draft):
        mask = np.empty((1, ahead.words), np.uint32)
        one_by_one.masks((), mask)
        assert (mask[0] == masks[place]).all()
        one_by_one.take(token)
    ahead.take(draft[0])
    assert ahead.possible(b"1,2x") == 3


def test_control_tokens_never_come_even_if_the_grammar_names_them(vocabulary: GrammarVocabulary) -> None:
    text = start(vocabulary, LLMatcher.grammar_from_lark("start: /(.|\\n)*/"), 50)
    assert set(text.allowed()).isdisjoint(range(256, 260))
    with pytest.raises((ConstraintInvalid, ConstraintUnmet)):
        start(vocabulary, LLMatcher.grammar_from_lark("start: <[257]>"), 50)


@pytest.mark.parametrize(
    "grammar", ["", "no grammar", "start: other", '{"grammars": [{"json_schema": {"type": "nothing"}}]}', "start: /(/"]
)
def test_what_is_no_grammar_is_refused_with_a_short_reason(vocabulary: GrammarVocabulary, grammar: str) -> None:
    with pytest.raises(ConstraintInvalid, match=r"The grammar cannot be used: .{3,500}$"):
        start(vocabulary, grammar, 50)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(abc", "unclosed group, at character 1 of the pattern (abc"),
        ("a(?=b)", "look-around, including look-ahead and look-behind, is not supported, at character 2 of"),
        (r"^(a)\1$", r"backreferences are not supported, at character 5 of the pattern ^(a)\1$"),
    ],
)
def test_of_a_pattern_that_is_refused_the_reason_and_the_place_are_told(
    vocabulary: GrammarVocabulary, pattern: str, told: str
) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}})
    with pytest.raises(ConstraintInvalid, match=re.escape(f"The grammar cannot be used: {told}")):
        start(vocabulary, f"start: %json {schema}", 50)


def test_a_grammar_larger_than_allowed_is_refused(vocabulary: GrammarVocabulary) -> None:
    grammar = LLMatcher.grammar_from_lark("start: " + " | ".join(f'"{number}" "x"' for number in range(500)))
    with pytest.raises(ConstraintInvalid):
        compile_grammar(grammar, vocabulary, 100)
    compile_grammar(grammar, vocabulary, 500_000)


@pytest.mark.parametrize("mark", ["!", "~", "</s>", "```", "?!"])
def test_the_mark_that_ends_a_free_text_is_found(vocabulary: GrammarVocabulary, mark: str) -> None:
    text = start(vocabulary, LLMatcher.grammar_from_lark(f'start: "=" /[a-z ]{{0,60}}/ "{mark}"'), 10)
    assert spelled(vocabulary, list(text.closing)) == f"={mark}"


def test_a_text_is_closed_in_fewer_and_longer_tokens_where_there_are(vocabulary: GrammarVocabulary) -> None:
    schema = {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}
    text = start(vocabulary, LLMatcher.grammar_from_json_schema(schema), 50)
    for token in b'[{"a":"x':
        text.take(token)
    assert spelled(vocabulary, list(text.closing)) == '"}]'
    assert len(text.closing) == 2


ITEM = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "name": {"type": "integer"}},
    "required": ["a", "name"],
    "additionalProperties": False,
}


def test_an_ending_of_many_items_is_found(vocabulary: GrammarVocabulary) -> None:
    schema = {"type": "array", "items": ITEM, "minItems": 60}
    ending = start(vocabulary, LLMatcher.grammar_from_json_schema(schema), 2000).closing
    assert json.loads(spelled(vocabulary, list(ending))) == [{"a": "", "name": 0}] * 60


@pytest.mark.parametrize(
    "schema",
    [
        *({"type": "string", "format": name} for name in ("email", "uri", "duration", "date-time", "uuid", "ipv6")),
        *(
            {"type": "string", "pattern": pattern}
            for pattern in (
                r"^\d+\.\d+\.\d+$", r"^\$\d+\.\d{2}$", r"^\w+( \w+){4}$", r"^[A-Z]+-\d{4}(-[a-z]+)?$",
                r"^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_+-]+@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
                r"^\d{4}-(0[1-9]|1[0-2])-[0-3]\d[T ][0-2]\d:[0-5]\d(\.\d+)?Z$",
            )
        ),
        {"type": "string", "pattern": "^[^@]+@[^@]+$", "minLength": 30},
        {"type": "string", "minLength": 300},
        {"type": "number", "exclusiveMinimum": 0},
    ],
    ids=str,
)  # fmt: skip
def test_an_ending_of_what_has_a_form_is_found_though_letters_or_digits_could_go_on_for_ever(
    vocabulary: GrammarVocabulary, schema: dict[str, Any]
) -> None:
    many = {"type": "array", "items": schema, "minItems": 2, "maxItems": 2}
    ending = start(vocabulary, LLMatcher.grammar_from_json_schema(many), 2000).closing
    assert len(ending) < 100 + 4 * schema.get("minLength", 0)
    jsonschema.validate(json.loads(spelled(vocabulary, list(ending))), many)


def test_places_where_no_ending_is_found_are_looked_at_ever_less_often(
    vocabulary: GrammarVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[int] = []

    def unfound(*_: object) -> tuple[int, ...]:
        searches.append(0)
        raise closing.SearchExhausted

    monkeypatch.setattr("gemlora.engines.constraints.text.shortest_closing", unfound)
    text = start(vocabulary, LLMatcher.grammar_from_json_schema({"type": "string"}), 1 << 12)
    for token in b'"' + b"x" * 2000:
        text.take(token)
    assert 5 < len(searches) < 10


@pytest.mark.parametrize("spare", [20, 250, 600])
def test_a_long_ending_is_searched_once_and_then_gone_on_with(
    vocabulary: GrammarVocabulary, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"type": "array", "items": ITEM, "minItems": 30}
    grammar = LLMatcher.grammar_from_json_schema(schema)
    room = len(start(vocabulary, grammar, 2000).closing) + spare
    text = start(vocabulary, grammar, room)
    monkeypatch.setattr(closing, "MOST_TRIES", 16)
    items = b",".join(b'{"a":"some words","name":%d}' % number for number in range(60))
    tokens: list[int] = []
    for token in vocabulary.encode(b"[" + items):
        taken = text.take(token)
        tokens += taken.tokens
        if taken.finish_reason is not None:
            break
    answer = spelled(vocabulary, tokens)
    assert len(tokens) <= room
    assert answer.startswith('[{"a":"some words","name":0},{"a":"')
    jsonschema.validate(json.loads(answer), schema)


def test_a_text_goes_on_while_any_ending_fits_though_the_last_one_was_longer(vocabulary: GrammarVocabulary) -> None:
    """The rest of the longer one would fit the grammar behind the bracket, but no longer the bound."""
    grammar = LLMatcher.grammar_from_lark('start: "{" ("]abcdefgh" | /[a-z]{1,30}/ "]" ("}" | "abcdefgh"))')
    text = start(vocabulary, grammar, 10)
    assert spelled(vocabulary, list(text.closing)) == "{]abcdefgh"
    taken = [*text.take(ord("{")).tokens, *text.take(ord("x")).tokens]
    assert spelled(vocabulary, taken) == "{x"
