"""An engine that answers with given texts, as one would that holds answers to grammars."""

from collections.abc import AsyncGenerator

from gemlora.engines.contract import FinishReason, GenerateRequest, Output
from gemlora.engines.fake import FakeEngine
from gemlora.errors import GemloraError


class ScriptedEngine(FakeEngine):
    """Every request gets the next text, a token for each byte; `max_tokens` cuts it."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts = [*texts]

    async def _outputs(
        self, request: GenerateRequest, failure: tuple[GemloraError, int] | None
    ) -> AsyncGenerator[Output, None]:
        tokens = self.texts.pop(0).encode()
        for index, token in enumerate(tokens[: request.max_tokens]):
            if failure is not None and index == failure[1]:
                raise failure[0]
            last = index + 1 == request.max_tokens
            yield Output((token,), FinishReason.LENGTH if last else None)
            if last:
                return
        yield Output((), FinishReason.STOP)
