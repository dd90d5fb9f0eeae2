"""Which version of an alias a request gets, and which are its shadows: a function of the alias, its weights and shares,
and the request's key alone."""

import hashlib
import math

from gemlora.aliases.records import Alias, Version

SCALE = 2.0**-64


def choose(alias: Alias, key: str) -> Version:
    """The version for requests with this key.

    Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after Schindelhauer and Schomaker 2005): each
    version draws from the key a number that is exponential with its weight as the rate, and the least one wins. So a
    change of weights moves only keys to versions whose share grew.
    """
    candidates = [version for version in alias.current.versions if version.weight > 0]
    return min(candidates, key=lambda version: -math.log(_uniform(alias.id, version.adapter, key)) / version.weight)


def shadows(alias: Alias, served: Version, key: str) -> tuple[Version, ...]:
    """The other versions that answer requests with this key too, each its share of all keys.

    A larger share adds keys and takes none away. Which version serves a key says nothing of its shadows.
    """
    others = (version for version in alias.current.versions if version is not served and version.shadow > 0)
    return tuple(one for one in others if _uniform("shadow", alias.id, one.adapter, key) <= one.shadow)


def _uniform(*fields: str) -> float:
    """A number in (0, 1] that is a function of the fields."""
    text = "".join(f"{len(field)}:{field}" for field in fields)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") + 0.5) * SCALE
