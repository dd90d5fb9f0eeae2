"""The address a server takes."""

import pytest
from tests.api.parts import Parts
from tests.api.real_server import QuietServer

from gemlora.api.server import bound_socket
from gemlora.errors import SettingsInvalid


async def test_of_two_servers_that_start_at_once_on_one_port_the_second_is_refused(parts: Parts) -> None:
    with bound_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with bound_socket("127.0.0.1", port) as second:
            first.listen()
            announced: list[str] = []
            server = QuietServer(parts.api, parts.lifecycle, 1, lambda: announced.append("ready"))

            with pytest.raises(SettingsInvalid, match=f"--port {port}: Address already in use"):
                await server.serve([second])

    assert announced == []
