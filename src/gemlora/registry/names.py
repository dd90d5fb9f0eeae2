"""What may name an adapter, and which texts a database can hold."""

import re
import unicodedata

from gemlora.errors import InvalidRequest

MAX_NAME_LENGTH = 255
MAX_DESCRIPTION_LENGTH = 10_000
PUBLIC_PREFIX = "cf-public-"
"""Names on the shelf that every account can use begin so, and no others do."""
BARE_BASE = f"{PUBLIC_PREFIX}base"
"""Names the base without any adapter, in the place of an adapter's name."""

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_name(name: str, *, public: bool = False) -> None:
    """Raise `InvalidRequest` unless `name` can name an adapter, one on the shelf if `public`."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"name: must have 1 to {MAX_NAME_LENGTH} characters")
    if not name.isprintable() or name != name.strip():
        raise InvalidRequest("name: must be printable, without blanks at its ends")
    folded = unicodedata.normalize("NFKC", name).casefold()
    if is_id(folded):
        raise InvalidRequest("name: must not look like an id")
    if folded == BARE_BASE:
        raise InvalidRequest(f"name: {BARE_BASE!r} is reserved, it stands for the base without an adapter")
    if public and not name.startswith(PUBLIC_PREFIX):
        raise InvalidRequest(f"name: a public adapter's name must begin with {PUBLIC_PREFIX!r}")
    if not public and folded.startswith(PUBLIC_PREFIX):
        raise InvalidRequest(f"name: the prefix {PUBLIC_PREFIX!r} is reserved for public adapters")


def check_description(description: str) -> None:
    """Raise `InvalidRequest` unless a database can hold the text."""
    if len(description) > MAX_DESCRIPTION_LENGTH:
        raise InvalidRequest(f"description: must have at most {MAX_DESCRIPTION_LENGTH} characters")
    if not is_storable(description):
        raise InvalidRequest("description: must not contain NUL or half a surrogate pair")


def is_id(text: str) -> bool:
    """Whether the text has the form of an id, which no name has."""
    return _UUID.fullmatch(text) is not None


def is_storable(text: str) -> bool:
    """Whether every database can hold the text and be asked for it."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
