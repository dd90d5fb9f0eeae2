"""Names that every database holds, that cannot be taken for an id, and of which only public ones have the prefix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemlora.errors import InvalidRequest
from gemlora.registry.names import check_description, check_name, is_storable

ODD = [
    "", " ", " poet", "poet ", "poet\u00a0", "a\nb", "a\0b", "a\tb", "\ud800", "\u200bpoet", "po\u200det", "\ufeffpoet",
    "\u202epoet", "x" * 256, "0aa5b9a2-3a50-4c5e-8a3a-2b3c4d5e6f70", "0AA5B9A2-3A50-4C5E-8A3A-2B3C4D5E6F70",
    "\uff10aa5b9a2-3a50-4c5e-8a3a-2b3c4d5e6f70",
]  # fmt: skip
RESERVED = [
    "cf-public-", "cf-public-x", "CF-PUBLIC-x", "Cf-Public-x", "\uff43\uff46-public-x", "cf\uff0dpublic\uff0dx",
    "\U0001d41c\U0001d41f-public-x", "cf-\u24dfublic-x", "cf\ufe63public-x",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("public", [False, True])
def test_names_that_would_mislead_are_refused(name: str, public: bool) -> None:
    with pytest.raises(InvalidRequest, match=r"^name: "):
        check_name(name, public=public)


@pytest.mark.parametrize("name", RESERVED)
def test_the_prefix_is_reserved_however_it_is_written(name: str) -> None:
    with pytest.raises(InvalidRequest, match="reserved"):
        check_name(name)


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("name", ["cf-public-base", "cf-public-BASE", "cf-public-\uff42ase"])
def test_nothing_can_have_the_name_of_the_bare_base(name: str, public: bool) -> None:
    with pytest.raises(InvalidRequest, match="stands for the base without an adapter"):
        check_name(name, public=public)


@pytest.mark.parametrize("name", ["poet", "CF-PUBLIC-x", "xcf-public-x", *RESERVED[4:]])
def test_a_public_name_has_exactly_the_prefix(name: str) -> None:
    with pytest.raises(InvalidRequest, match="must begin with 'cf-public-'"):
        check_name(name, public=True)


@pytest.mark.parametrize(
    "name", ["x", "my adapter", "größe/2 (β)", "../../etc", "cf-publix-x", "xcf-public-", "x" * 255]
)
def test_any_other_name_is_fine(name: str) -> None:
    check_name(name)
    check_name(f"cf-public-{name}"[:255], public=True)


@given(st.text(alphabet=st.characters(codec=None)))
def test_every_text_is_accepted_or_refused_and_what_is_accepted_can_be_stored(text: str) -> None:
    for check in (check_name, check_description):
        try:
            check(text)
        except InvalidRequest:
            continue
        assert is_storable(text)
        assert "\0" not in text.encode().decode()
