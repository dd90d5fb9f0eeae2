"""What shadow runs are kept as: counts, pairs of answers with bounds on them, and outcomes that a test may want."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from structlog.typing import FilteringBoundLogger

from gemlora.aliases.outcomes import Outcomes
from gemlora.aliases.pairs import PairRepository
from gemlora.aliases.repository import AliasChanges, AliasRepository
from gemlora.aliases.shadows import MEASURES, KeptPair, Outcome, Pair, Place


@dataclass(frozen=True, slots=True)
class KeepingRules:
    """How many pairs of an alias are kept, and how long their texts; 0: not at all."""

    pairs: int = 200
    text_seconds: float = 0


class ShadowRecords:
    """The shadow runs of all accounts."""

    def __init__(
        self,
        aliases: AliasRepository,
        pairs: PairRepository,
        rules: KeepingRules,
        log: FilteringBoundLogger,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._aliases = aliases
        self._pairs = pairs
        self._rules = rules
        self._clock = clock
        self._outcomes = Outcomes(log, clock)

    @property
    def keeps_texts(self) -> bool:
        """Whether texts are kept at all."""
        return self._rules.text_seconds > 0

    async def list(self, account_id: str, name: str, offset: int, limit: int) -> tuple[int, tuple[KeptPair, ...]]:
        """How many pairs of an alias are kept, and some of them, the newest first. Raises `AliasNotFound`."""
        alias = await self._aliases.find(account_id, name)
        return await self._pairs.list(alias, offset, limit)

    async def save(self, pairs: Sequence[Pair], dropped: Mapping[Place, int]) -> None:
        """Count and keep all of it, or nothing; what is of aliases that are gone is let go. Raises `StorageFailed`."""
        async with self._aliases.changing() as changes:
            for place, number in dropped.items():
                await changes.pairs.count(place, Outcome.DROPPED, number)
            for pair in pairs:
                if await changes.pairs.count(pair.shadow, pair.outcome):
                    await changes.pairs.add(pair, self._rules.pairs)
                    await self._compare(changes, pair)

    async def forget_texts(self) -> None:
        """Delete the texts that were kept for long enough. Raises `StorageFailed`."""
        before = self._clock() - timedelta(seconds=self._rules.text_seconds)
        if await self._pairs.has_texts(before):
            async with self._aliases.changing() as changes:
                await changes.pairs.forget_texts(before)

    async def _compare(self, changes: AliasChanges, pair: Pair) -> None:
        """Show both answers to the test of the revision that they came from, if it measures them."""
        place = pair.shadow
        alias = await changes.find(place.account_id, place.alias)
        revision, trial = alias.current, alias.current.trial
        if trial is None or not trial.measured or revision.number != place.revision or pair.shadow_facts is None:
            return
        if (trial.control, trial.candidate) != (pair.served, place.version):
            return
        measure = MEASURES[trial.metric]
        for name, facts in ((trial.control, pair.served_facts), (trial.candidate, pair.shadow_facts)):
            if (version := revision.version(name)) is not None:
                alias = await self._outcomes.count(changes, alias, revision, version, measure(facts))
