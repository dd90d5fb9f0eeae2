"""What was seen while an adapter learnt."""

from typing import Any

import msgspec


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One batch: the mean loss of its learnt tokens in nats, before the step was taken."""

    step: int
    loss: float
    tokens: int


class Evaluation(msgspec.Struct, frozen=True, array_like=True):
    """The mean loss per learnt token of the held-out examples after so many steps."""

    step: int
    loss: float


class History(msgspec.Struct):
    """All steps and looks at the held-out examples so far, and how long they took together."""

    steps: list[Step] = []
    evaluations: list[Evaluation] = []
    seconds: float = 0.0

    @property
    def base(self) -> Evaluation | None:
        """The look at the base, before anything was learnt."""
        return self.evaluations[0] if self.evaluations else None

    @property
    def best(self) -> Evaluation | None:
        """The look at the adapter with the lowest loss, the first of equals."""
        return min(self.evaluations[1:], key=lambda one: one.loss, default=None)

    @property
    def without_gain(self) -> int:
        """How many looks there were since the best one."""
        best = self.best
        return 0 if best is None else sum(one.step > best.step for one in self.evaluations)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data
