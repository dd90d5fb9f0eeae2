"""What an alias is: a name that points to versions with weights, and the revisions that it went through."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gemlora.aliases.sequential import Design, Verdict
from gemlora.aliases.shadows import ShadowCounts


class Action(StrEnum):
    """What made a revision."""

    CREATE = "create"
    SET = "set"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


NO_SHADOW = ShadowCounts()

BY_TEST = "test"
"""Who made a revision that no token asked for."""


@dataclass(frozen=True, slots=True)
class Share:
    """What somebody wants of an alias: an adapter, by name or id, its weight, and its share as a shadow."""

    version: str
    weight: float
    shadow: float = 0.0


@dataclass(frozen=True, slots=True)
class Version:
    """One of the adapters that an alias points to, or the bare base.

    `name` is the adapter's when it was pointed to. Own adapters are known by `adapter_id`; what is on the shelf goes by
    its name, because a new release replaces it there. `shadow` is the share of the alias's requests that it answers
    too, without anybody seeing it.
    """

    name: str
    weight: float
    adapter_id: str | None = None
    shadow: float = 0.0

    @property
    def adapter(self) -> str:
        """What a request names to be served by this version."""
        return self.name if self.adapter_id is None else self.adapter_id


@dataclass(frozen=True, slots=True)
class Trial:
    """The test that a revision declares: two of its versions, compared by what is reported of their answers.

    It ends without a difference once both have `sample` outcomes; None: as many as its design needs. With `rolls_back`
    a candidate that is found worse loses its traffic to the control at once. With `measured` clients report nothing:
    the candidate is a shadow, and the server measures the metric, one of `shadows.MEASURES`, of both answers of a pair.
    """

    control: str
    candidate: str
    metric: str
    lower_is_better: bool
    design: Design
    sample: int | None = None
    rolls_back: bool = False
    measured: bool = False

    def compares(self, version: str) -> bool:
        """Whether the version of that name is one of the two."""
        return version in (self.control, self.candidate)


@dataclass(frozen=True, slots=True)
class Tally:
    """What is known of a version's answers: how many outcomes, their sum, and what became of it as a shadow."""

    version: str
    outcomes: int = 0
    total: float = 0.0
    shadow: ShadowCounts = NO_SHADOW


@dataclass(frozen=True, slots=True)
class Standing:
    """What was reported in a revision, and what its test says; None: it declares none."""

    tallies: tuple[Tally, ...]
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of an alias; it never changes. All of them are the alias's log, numbered from 1."""

    number: int
    made_at: datetime
    made_by: str
    """Id of the token that asked for it, or who else did."""
    action: Action
    note: str
    versions: tuple[Version, ...]
    trial: Trial | None = None

    def version(self, name_or_id: str) -> Version | None:
        """The version of that name, or whose adapter has that id."""
        found = (version for version in self.versions if name_or_id in (version.name, version.adapter_id))
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Alias:
    """A name of an account that requests write like an adapter's."""

    id: str
    account_id: str
    name: str
    created_at: datetime
    current: Revision


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """An adapter as aliases see it."""

    id: str
    name: str
    public: bool
    ready: bool


@dataclass(frozen=True, slots=True)
class Chosen:
    """The version that a request to an alias gets, and those that answer it as shadows."""

    alias: Alias
    version: Version
    shadows: tuple[Version, ...] = ()
