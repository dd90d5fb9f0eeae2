"""A server from its settings, in the order in which it is ready soonest.

The address is taken first, so that a taken one fails before anything is loaded. Then the engine's process starts, and
while that loads the model this one imports everything else. Nothing listens before all is ready.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvloop

from gemlora.api.listener import bound_socket
from gemlora.app.backend import starting_backend
from gemlora.app.importing import import_uncollected
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.settings import Settings

if TYPE_CHECKING:
    from gemlora.app.application import Announcement


def serve(settings: Settings, announce: "Callable[[Announcement], None]", progress: Progress) -> None:
    """Serve until a signal ends it; calls `announce` when the server listens.

    Raises the `GemloraError` that prevents the start: bad settings, weights, data folder or address.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, announce, progress))


async def _serve(settings: Settings, announce: "Callable[[Announcement], None]", progress: Progress) -> None:
    with bound_socket(settings.host, settings.port) as listener:
        async with starting_backend(settings, progress) as backend:
            # In a thread: meanwhile the loop tells the engine's process what to load.
            application = await asyncio.to_thread(import_uncollected, "gemlora.app.application")
            await application.run(settings, backend, listener, announce)
