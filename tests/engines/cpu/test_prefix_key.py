"""Unequal owners, weights or tokens never have equal keys, whatever their names look like."""

from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gemlora.engines.cpu.prefix_key import block_key, root_key

CONFUSING = ["", "0" * 64, "adapter", "no adapter", "None", "4:base1:x", "cache scope", "parent", "\0", ":"]
"""Digests and scopes that look like tags, lengths or one another."""

names = st.sampled_from(CONFUSING) | st.text(max_size=6)
opaque = names.map(str.encode) | st.binary(max_size=6)
roots = st.tuples(opaque, opaque, names, st.none() | names)


@settings(max_examples=300, deadline=None)
@given(st.lists(roots, min_size=2, max_size=30, unique=True))
@example([(b"a", b"", "b", None), (b"", b"a", "b", None), (b"a", b"", "b", ""), (b"", b"", "ab", "None")])
def test_unequal_roots_have_unequal_keys(unequal: list[tuple[bytes, bytes, str, str | None]]) -> None:
    assert len({root_key(*root) for root in unequal}) == len(unequal)


def test_a_hundred_thousand_unequal_tuples_of_confusing_fields_have_unequal_keys() -> None:
    random = Random(1)
    parts = [*CONFUSING, *(f"{random.getrandbits(16):x}" for _ in range(20))]

    def name() -> str:
        return "".join(random.choices(parts, k=random.randint(0, 3)))

    tuples = {
        (name().encode(), name().encode(), name(), random.choice([None, name()]), random.randrange(4))
        for _ in range(130_000)
    }
    assert len(tuples) > 100_000
    assert len({block_key(root_key(*root), [token]) for *root, token in tuples}) == len(tuples)


def test_the_order_of_tokens_and_where_a_block_ends_show_in_its_key() -> None:
    root = root_key(b"", b"", "base", None)
    first = block_key(root, [1, 2])
    keys = [root, first, block_key(root, [2, 1]), block_key(root, [1, 2, 3]), block_key(first, [3]),
            block_key(root, [1 + (2 << 32)]), block_key(root, [])]  # fmt: skip
    assert len(set(keys)) == len(keys)


def test_the_same_content_has_the_same_key() -> None:
    root = root_key(b"scope", b"share", "base", "adapter")
    assert root == root_key(b"scope", b"share", "base", "adapter")
    assert block_key(root, (1, 2)) == block_key(root, [1, 2])
