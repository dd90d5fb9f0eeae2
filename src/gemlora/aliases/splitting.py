"""Which version of an alias a request gets: a function of the alias, its weights and the request's key alone."""

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
    return min(candidates, key=lambda version: _drawn(alias.id, version, key))


def _drawn(alias_id: str, version: Version, key: str) -> float:
    fields = (alias_id, version.adapter, key)
    text = "".join(f"{len(field)}:{field}" for field in fields)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    uniform = (int.from_bytes(digest[:8], "big") + 0.5) * SCALE  # in (0, 1]
    return -math.log(uniform) / version.weight
