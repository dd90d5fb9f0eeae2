"""The engine's state of one request."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from gemlora.engines.contract import GenerateRequest
from gemlora.engines.cpu.constraining import ConstrainedText, Opened
from gemlora.engines.cpu.drafting import Drafter
from gemlora.engines.cpu.history import TokenHistory
from gemlora.engines.cpu.probing import Probing
from gemlora.kernels import LoraWeights


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way through the engine.

    `tokens` is the prompt and everything generated so far; the first `computed` of them have their keys and values
    in `blocks`, `reused` of these because the prefix cache had them. Preemption takes the blocks and sets both to 0:
    the same tokens are computed again later. The first `shared` blocks are in the prefix cache; `keys` are those of the
    root and of as many blocks as were asked. `history` exists only for requests with penalties. With `probing` no token
    is drawn, the logits are kept there. `drafter` reads the tokens if the engine guesses ahead. `opening` becomes
    `text` when the grammar of a request that has one is compiled. `announced` says whether the client knows that the
    engine works on it.
    """

    request: GenerateRequest
    arrival: int
    tokens: list[int]
    adapter: LoraWeights | None = None
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    reused: int = 0
    shared: int = 0
    keys: list[bytes] = field(default_factory=list)
    history: TokenHistory | None = None
    probing: Probing | None = None
    announced: bool = False
    drafter: Drafter = field(default_factory=Drafter)
    opening: Future[Opened] | None = None
    text: ConstrainedText | None = None

    @classmethod
    def start(cls, request: GenerateRequest, arrival: int, probing: Probing | None = None) -> "Sequence":
        """A sequence that has not computed anything yet."""
        history = TokenHistory(request.prompt, request.generated) if request.sampling.penalises else None
        return cls(request, arrival, [*request.prompt, *request.generated], history=history, probing=probing)

    @property
    def generated(self) -> int:
        """Output tokens so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def remaining(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def ready(self) -> bool:
        """Whether its adapter is in memory and its grammar compiled, if it names them."""
        return self.has_adapter and (self.text is not None or self.request.constraint is None)

    @property
    def has_adapter(self) -> bool:
        """Whether its adapter, if it names one, is in memory."""
        return self.adapter is not None or self.request.adapter is None

    @property
    def takes_most_likely(self) -> bool:
        """Whether the next token is the largest output of the base's own head, so that no logits need be written."""
        free = self.history is None and self.probing is None and self.text is None
        return free and self.request.sampling.greedy and (self.adapter is None or self.adapter.head is None)

    def append(self, token: int) -> None:
        """Add an output token."""
        self.tokens.append(token)
        if self.history is not None:
            self.history.append(token)
