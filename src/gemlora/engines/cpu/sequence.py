"""The engine's state of one request."""

from dataclasses import dataclass, field

from gemlora.engines.contract import GenerateRequest
from gemlora.kernels import LoraWeights


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way through the engine.

    `tokens` is the prompt and everything generated so far; the first `computed` of them have their keys and values
    in `blocks`. Preemption frees the blocks and sets `computed` to 0: the same tokens are computed again later.
    """

    request: GenerateRequest
    arrival: int
    tokens: list[int]
    adapter: LoraWeights | None = None
    blocks: list[int] = field(default_factory=list)
    computed: int = 0

    @classmethod
    def start(cls, request: GenerateRequest, arrival: int) -> "Sequence":
        """A sequence that has not computed anything yet."""
        return cls(request, arrival, [*request.prompt, *request.generated])

    @property
    def generated(self) -> int:
        """Output tokens so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def remaining(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.tokens) - self.computed
