"""Everything that decides how an adapter is trained, apart from the base and the examples."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from gemlora.errors import SettingsInvalid
from gemlora.registry.models import MODULES

COOLEST = 0.1
"""Share of the learning rate that the cosine ends at."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of `gemlora train`. Raises `SettingsInvalid` for values that cannot work."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    modules: tuple[str, ...] = MODULES
    learning_rate: float = 5e-4
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    epochs: int = 3
    batch_size: int = 8
    """Examples per step."""
    max_tokens: int = 1024
    """Longer examples are left out."""
    held_out: float = 0.1
    """Share of the examples that are not learnt but watched, unless a file of them is given."""
    evaluations: int = 2
    """Looks at the held-out examples per epoch."""
    patience: int = 4
    """Training stops after so many looks without a better one."""
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [text for text, holds in self._rules() if not holds]
        if wrong:
            raise SettingsInvalid("; ".join(wrong))

    def _rules(self) -> list[tuple[str, bool]]:
        return [
            ("rank must be 1 to 256", 1 <= self.rank <= 256),
            ("alpha must be positive", 0 < self.alpha < math.inf),
            ("dropout must be at least 0 and less than 1", 0 <= self.dropout < 1),
            (f"modules must be among {', '.join(MODULES)}", {*()} < set(self.modules) <= set(MODULES)),
            ("the learning rate must be positive and at most 1", 0 < self.learning_rate <= 1),
            ("warmup must be 0 to 1", 0 <= self.warmup <= 1),
            ("epochs must be at least 1", self.epochs >= 1),
            ("the batch size must be at least 1", self.batch_size >= 1),
            ("max_tokens must be at least 8", self.max_tokens >= 8),
            ("the held-out share must be at least 0 and less than 1", 0 <= self.held_out < 1),
            ("evaluations must be at least 1", self.evaluations >= 1),
            ("patience must be at least 1", self.patience >= 1),
        ]

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step `step` of `steps`, counted from 0: a linear rise, then a cosine."""
        warm = math.ceil(self.warmup * steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        return self.learning_rate * (COOLEST + (1 - COOLEST) * (1 + math.cos(math.pi * done)) / 2)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "modules": list(self.modules)}
