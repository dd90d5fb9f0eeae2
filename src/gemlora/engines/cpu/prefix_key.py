"""Under which key a block of the KV cache is found again: all that its keys and values depend on, and whose they are.

A chain of SHA-256 digests. The root says who and with which weights, every block adds its tokens to its parent's key.
Fields are tagged and carry their lengths, so that none can be mistaken for another.
"""

import hashlib
from array import array
from collections.abc import Sequence

_SEPARATION = (b"gemlora", b"key of a block of the KV cache")


def root_key(cache_scope: bytes, share_key: bytes, base: str, adapter: str | None) -> bytes:
    """The parent of first blocks. `base` and `adapter` are content digests; None is no adapter."""
    return _digest(
        (b"cache scope", cache_scope),
        (b"share key", share_key),
        (b"base", base.encode()),
        (b"no adapter", b"") if adapter is None else (b"adapter", adapter.encode()),
    )


def block_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of the block with these tokens behind the block, or the root, with the key `parent`."""
    return _digest((b"parent", parent), (b"tokens", array("q", tokens).tobytes()))


def _digest(*fields: tuple[bytes, bytes]) -> bytes:
    digest = hashlib.sha256()
    for tag, value in (_SEPARATION, *fields):
        digest.update(b"%d:%b%d:%b" % (len(tag), tag, len(value), value))
    return digest.digest()
