"""Schemas: what is refused, and that the library's grammars enforce all of what passes."""

import json
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from gemlora.engines.constraints import GrammarVocabulary, compile_grammar
from gemlora.errors import ConstraintInvalid
from gemlora.serving.schemas import SchemaLimits, held
from gemlora.serving.shapes import Shape

LIMITS = SchemaLimits(size=2000, depth=4, properties=5, values=4, items=10, length=50)
VOCABULARY = GrammarVocabulary([*(bytes([byte]) for byte in range(256)), b""], end=256)


def allows(schema: Any, text: str) -> bool:
    """Whether the grammar of a schema allows the text."""
    constraint = Shape(held(schema, ("s",), SchemaLimits())).constraint
    assert constraint is not None
    matcher = compile_grammar(constraint.grammar, VOCABULARY, 500_000)
    tokens = [*text.encode()]
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "integer"}, ["5", "-7"], ["5.0", "1e3", "true", "9" * 17, '"5"']),
        ({"type": ["integer", "null"]}, ["5", "null"], ["1.5", "9" * 17]),
        ({"type": "number"}, ["5", "1.5", "2e3"], ["NaN", "+1", ".5"]),
        ({"type": "number", "minimum": -1e300, "maximum": 2.5}, ["-7", "2.5"], ["2.6"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.5", "0.000001"], ["0", "-0", "0.0", "0.51"]),
        ({"type": "number", "minimum": -0.25, "exclusiveMaximum": 0}, ["-0.25", "-0.1"], ["0", "-0", "-0.3"]),
        ({"type": "number", "exclusiveMinimum": 7, "exclusiveMaximum": 7.25}, ["7.1", "7.249"], ["7", "7.0", "7.25"]),
        ({"type": "number", "exclusiveMinimum": 10**9, "maximum": 10**9 + 0.5}, ["1000000000.5"], ["1000000000"]),
        ({"type": "integer", "exclusiveMinimum": 3, "maximum": 9, "multipleOf": 2}, ["4", "8"], ["3", "5", "10"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"\U0001f600ab"'], ['"a"', '"abcd"']),
        ({"type": "string", "pattern": "^[a-c]+$"}, ['"abc"'], ['"abd"', '""']),
        ({"type": "string", "format": "date"}, ['"2024-05-31"'], ['"2024-06-31"', '"today"']),
        ({"type": "string", "format": "starts_with", "pattern": "^ab"}, ['"abc"'], ['"bc"']),
        ({"type": "integer", "format": "int32", "minimum": 0}, ["5"], ["-5", "0.5"]),
        ({"const": None}, ["null"], ["0"]),
        ({"enum": [1, "a", None, [2], {"b": True}]}, ["1", '"a"', "null", "[2]", '{"b": true}'], ["2", "[]", "{}"]),
        ({"const": 0.5}, ["0.5"], ["0.51", "5"]),
        (
            {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
            ["[true]"],
            ["[]", "[1]", "[true, true, true]"],
        ),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": False}, ["[1]", "[]"], ["[1, 1]", "[2]"]),
        ({"type": "array", "items": [{"const": 1}], "additionalItems": False}, ["[1]"], ["[1, 1]", "[2]"]),
        ({"type": "object", "required": ["a"]}, ['{"a": 1}', '{"a": [], "b": {"c": null}}'], ["{}", '{"b": 1}']),
        ({"properties": {"a": {"type": "null"}}, "type": "object"}, ["{}", '{"a": null}'], ['{"a": 1}', '{"b": 1}']),
        (
            {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
            ['{"a": null, "b": 1}'],
            ['{"a": 1}', '{"b": null}', '{"\\u0061": 1}'],
        ),
        ({"type": "object", "patternProperties": {"^a": {"const": 1}}}, ['{"ab": 1, "b": 2}'], ['{"ab": 2}']),
        ({"type": "object", "minProperties": 1, "maxProperties": 2}, ['{"a": 1}'], ["{}", '{"a": 1, "b": 1, "c": 1}']),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["1", "null"], ["true"]),
        ({"allOf": [{"required": ["a"], "type": "object"}, {"required": ["b"]}]}, ['{"a": 1, "b": 1}'], ['{"a": 1}']),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, ["1", '"a"'], ["1.5"]),
        (
            {
                "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
                "$defs": {
                    "cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
                    "dog": {
                        "type": "object",
                        "properties": {"kind": {"enum": ["dog", "pup"]}, "age": {"type": "integer"}},
                    },
                },
                "discriminator": {"propertyName": "kind"},
            },
            ['{"kind": "cat"}', '{"kind": "pup", "age": 3}'],
            ['{"kind": "cow"}'],
        ),
        (
            {
                "type": "object",
                "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            },
            ['{"v": 1, "next": {"v": 2, "next": null}}'],
            ['{"v": 1, "next": {"v": "2"}}'],
        ),
        ({"$ref": "#/definitions/a~1b%25", "definitions": {"a/b%": {"type": "null"}}}, ["null"], ["1"]),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "prefixItems": [{"const": 1}]},
            ["[1]"],
            ["[2]"],
        ),
    ],
)
def test_grammars_allow_what_the_schema_says_and_nothing_else(
    schema: Any, valid: list[str], invalid: list[str]
) -> None:
    draft = Draft7Validator if isinstance(schema.get("items"), list) else Draft202012Validator
    validator = draft({keyword: value for keyword, value in schema.items() if keyword != "$schema"})

    for text in valid:
        assert allows(schema, text), text
        assert validator.is_valid(json.loads(text)), text
    for text in invalid:
        assert not allows(schema, text), text


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (5, "'/s' must be a schema"),
        (False, "'/s' allows nothing"),
        ({"type": "strin"}, "'/s/type' must be one of null, boolean"),
        ({"type": []}, "'/s/type' must be one of"),
        ({"items": {"not": {}}}, "'/s/items/not' is not supported"),
        ({"if": {}}, "'/s/if' is not supported"),
        ({"uniqueItems": True}, "'/s/uniqueItems' is not supported"),
        ({"contains": {}}, "'/s/contains' is not supported"),
        ({"propertyNames": {"maxLength": 3}}, "'/s/propertyNames' is not supported"),
        ({"dependentRequired": {"a": ["b"]}}, "'/s/dependentRequired' is not supported"),
        ({"dependentSchemas": {"a": {}}}, "'/s/dependentSchemas' is not supported"),
        ({"unevaluatedProperties": False}, "'/s/unevaluatedProperties' is not supported"),
        ({"nullable": True}, "'/s/nullable' is not supported"),
        ({"properties": {"a": {"typ": "string"}}}, "'/s/properties/a/typ' is no keyword"),
        ({"format": "uri-reference"}, "'/s/format' is not supported: answers can be held to date, date-time"),
        ({"format": 5}, "'/s/format' must be a text"),
        ({"$ref": "http://example.com/a"}, "'/s/$ref' must point into the same schema"),
        ({"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}}, "'/s/$ref' must point into the same schema"),
        ({"$ref": "#/$defs/none"}, "'/s/$ref' points at no schema"),
        ({"$ref": "#/default", "default": {}}, "'/s/$ref' points at no schema"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "'/s/oneOf' has alternatives that one value could meet"),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "'/s/oneOf' has alternatives"),
        ({"anyOf": []}, "'/s/anyOf' must be a list of schemas"),
        ({"enum": []}, "'/s/enum' must be a list that is not empty"),
        ({"enum": [1, 2, 3, 4, 5]}, "'/s/enum' makes more than 4 values"),
        ({"const": 2**60}, "'/s/const' is a number beyond"),
        ({"const": "\x00"}, "'/s/const' has a control character"),
        ({"required": True}, "'/s/required' must be a list of names"),
        ({"properties": []}, "'/s/properties' must be an object of schemas"),
        ({"properties": {name: {} for name in "abcdef"}}, "'/s/properties' makes more than 5 properties"),
        ({"items": {"items": {"items": {"items": {}}}}}, "'/s/items/items/items/items' is nested more than 4 deep"),
        ({"minItems": 11}, "'/s/minItems' must be at most 10"),
        ({"minLength": 51}, "'/s/minLength' must be at most 50"),
        ({"maxItems": -1}, "'/s/maxItems' must be a whole number"),
        ({"minProperties": 2}, "'/s/minProperties' demands several properties"),
        ({"exclusiveMinimum": True}, "'/s/exclusiveMinimum' must be a number"),
        ({"exclusiveMinimum": 1e14, "maximum": 1e14 + 0.5}, "'/s' has bounds that are too close"),
        ({"type": "integer", "minimum": 1e17}, "'/s' allows no number within"),
        ({"multipleOf": 0}, "'/s/multipleOf' must be a number above 0"),
        ({"description": "x" * 2000}, "'/s' has 2,019 bytes, more than the 2,000"),
    ],
)
def test_what_cannot_be_held_to_is_refused_with_its_place(schema: Any, text: str) -> None:
    with pytest.raises(ConstraintInvalid) as error:
        held(schema, ("s",), LIMITS)

    assert text in str(error.value)


def test_what_says_nothing_is_ignored_also_where_it_steers_the_library() -> None:
    noise = {"title": "t", "x-guidance": {"lenient": True}, "$id": "http://x", "uniqueItems": False, "default": 1}

    assert held({"type": "array", "items": {**noise, "type": "null"}, **noise}, (), LIMITS) == {
        "type": "array", "items": {"type": "null"},
    }  # fmt: skip


def test_high_maxima_are_cut_to_what_is_allowed() -> None:
    assert held({"maxItems": 1e9, "maxLength": 10**9}, (), LIMITS) == {"maxItems": 10, "maxLength": 50}


def test_properties_may_be_called_like_keywords() -> None:
    schema = {"type": "object", "properties": {"not": {"type": "null"}, "$ref": {"const": 1}}, "required": ["$ref"]}

    assert allows(schema, '{"not": null, "$ref": 1}')


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"type": "object", "properties": {"a": {}}}, {"properties": {"b": {}}, "required": ["a", "b"]}]},
        {"type": "object", "properties": {"a": {}}, "required": ["b"]},
        {"$ref": "#/$defs/a", "required": ["b"], "$defs": {"a": {"type": "object", "properties": {"a": {}}}}},
    ],
)
def test_objects_stay_open_where_others_may_add_to_them(schema: Any) -> None:
    assert allows(schema, '{"a": 1, "b": 2}')
