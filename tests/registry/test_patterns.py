"""Patterns mean what they mean to PEFT, and none takes long."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlora.registry.patterns import PatternInvalid, suffix_matcher, whole_matcher

NAMES = [
    f"{prefix}layers.{layer}.{parent}.{module}"
    for prefix in ("", "model.", "model.language_model.")
    for layer in (0, 1, 11, 17)
    for parent, module in (("self_attn", "q_proj"), ("self_attn", "v_proj"), ("mlp", "down_proj"))
]
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))"
)
REAL = [
    "q_proj",
    "self_attn.q_proj",
    r".*\.(q_proj|v_proj)",
    r".*layers\.(0|1)\..*q_proj",
    r".*language_model.*\.(q_proj|v_proj)$",
    r"^model.layers.1.self_attn.q_proj",
    r"model\.layers\.\d+\.self_attn\.(q|v)_proj",
    r"model\.layers\.[0-9]\.mlp\.[a-z]+_proj",
    r"model\.layers\.1[0-9]?\..*",
    r"layers.1.self_attn.q_proj",
    r"layers\.(?:1[0-7])\.mlp\.down_proj",
    r"\w+\.layers\.[\d]\.[\w.]*",
    r"\D*\d\W.*_\w*",
    r"\w+\.layers\.\d{1,2}\.[^.]+\.v_proj",
    UNSLOTH,
]


@pytest.mark.parametrize("pattern", REAL)
def test_real_patterns_match_as_pythons_do(pattern: str) -> None:
    whole, suffix = whole_matcher(pattern), suffix_matcher(pattern)
    for name in NAMES:
        assert whole(name) == bool(re.fullmatch(pattern, name)), name
        assert suffix(name) == bool(re.match(rf"(.*\.)?({pattern})$", name)), name


@settings(max_examples=500, deadline=None)
@given(
    st.text("ab.|()*+?[]^$-", min_size=1, max_size=12),
    st.lists(st.text("ab.", max_size=5), min_size=1, max_size=5),
)
def test_whatever_is_accepted_matches_as_in_python(pattern: str, names: list[str]) -> None:
    try:
        whole, suffix = whole_matcher(pattern), suffix_matcher(pattern)
        re.compile(pattern)
    except (PatternInvalid, re.error):
        return
    for name in names:
        assert whole(name) == bool(re.fullmatch(pattern, name))
        assert suffix(name) == bool(re.match(rf"(.*\.)?({pattern})$", name))


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("a" * 1025, "longer"),
        ("(?=a)", "unsupported"),
        ("(?<!a)b", "unsupported"),
        ("(?i)q_proj", "unsupported"),
        (r"(a)\1", "unsupported"),
        ("(?P<x>a)", "unsupported"),
        ("a{,3}", "unsupported"),
        ("a{100}", "unsupported"),
        ("a{2}" * 4, "counted"),
        ("a++", "repeats"),
        ("a*+", "repeats"),
        ("a**", "repeats"),
        ("a*??", "repeats"),
        ("[a&&b]", "unsupported"),
        ("[[a]]", "unsupported"),
        (r"\pL", "unsupported"),
        (r"\<a", "unsupported"),
        (r"\Aq_proj", "unsupported"),
        ("(q_proj", "not a valid"),
        ("q_proj)", "not a valid"),
        ("*", "not a valid"),
        (")(", "not a valid"),
        (r"q\sproj", "unsupported"),
        ("ä", "unsupported"),
        ("a\nb", "unsupported"),
        ("." * 65, "wildcards"),
    ],
)
def test_what_python_and_rust_read_differently_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternInvalid, match=reason):
        whole_matcher(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(?:a|a)*b",
        "(.*a){3}(.*a){3}(.*a){3}b",
        "(?:" * 40 + "a" + ")*" * 40,
        "(((.?.?.?.?.?.?.?.?.?.?){3}){3}){3}b",
        "".join(f"(?:{c}{'x' * 200}|" for c in "abcd") + "a" + ")" * 4,
        r"(?:\W\W\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w\w){3}",
        ".?" * 60 + "." * 4,
    ],
)
def test_no_pattern_takes_long(pattern: str) -> None:
    started = time.perf_counter()
    try:
        matches = suffix_matcher(pattern)
    except PatternInvalid:
        return
    for layer in range(62):
        for module in range(7):
            matches(f"model.language_model.layers.{layer}.self_attn.{'a' * 50}{module}")
    assert time.perf_counter() - started < 0.5
