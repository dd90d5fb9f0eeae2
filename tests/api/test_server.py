"""The address a server takes, and what its connections make of odd requests."""

import pytest
from tests.api.parts import Parts
from tests.api.real_server import QuietServer, RealServer, run_request

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


@pytest.mark.parametrize("protocol", ["Upgrade: h2c", "upgrade: websocket"])
async def test_an_offer_to_change_the_protocol_is_ignored_and_the_body_read(server: RealServer, protocol: str) -> None:
    offer = ["Connection: Upgrade, HTTP2-Settings", protocol, "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]

    async with server.connection() as (reader, writer):
        for _ in range(2):
            writer.write(run_request(b'{"prompt":"x","max_tokens":1}', *offer))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b'"messages":[]}')
