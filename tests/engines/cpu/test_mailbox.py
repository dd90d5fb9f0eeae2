import socket
import threading
from collections.abc import Iterator

import pytest
from tests.stepping import request

from gemlora.engines.cpu.frames import Cancel, Delivered, Shutdown, Submit, encode, event_reader
from gemlora.engines.cpu.mailbox import SocketMailbox


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, SocketMailbox]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        mailbox = SocketMailbox(theirs)
        yield ours, mailbox
        mailbox.close()


Ends = tuple[socket.socket, SocketMailbox]


def test_commands_come_whole_and_in_order(ends: Ends) -> None:
    client, mailbox = ends
    commands = [Submit(request("a", range(40))), Cancel("b")]
    data = encode(commands)
    assert mailbox.receive(wait=False) == []
    client.sendall(data[:50])
    assert mailbox.receive(wait=True) == []
    client.sendall(data[50:])
    assert mailbox.receive(wait=True) == commands
    assert mailbox.receive(wait=False) == []


def test_more_than_one_read_holds_is_received_at_once(ends: Ends) -> None:
    client, mailbox = ends
    commands = [Submit(request(str(number), range(5000))) for number in range(30)]
    sender = threading.Thread(target=client.sendall, args=(encode(commands),))
    sender.start()
    received = []
    while len(received) < len(commands):
        received += mailbox.receive(wait=True)
    sender.join()
    assert received == commands


def test_events_reach_the_client(ends: Ends) -> None:
    client, mailbox = ends
    mailbox.send([Delivered("a", (1,)), Delivered("b", (2,))])
    assert event_reader().feed(client.recv(1000)) == [Delivered("a", (1,)), Delivered("b", (2,))]


def test_the_end_of_the_stream_is_a_shutdown_behind_what_came_before(ends: Ends) -> None:
    client, mailbox = ends
    client.sendall(encode([Cancel("a")]))
    client.close()
    assert mailbox.receive(wait=True) == [Cancel("a"), Shutdown()]
    assert mailbox.receive(wait=True) == [Shutdown()]


def test_events_for_a_client_that_is_gone_are_lost_and_shut_down(ends: Ends) -> None:
    client, mailbox = ends
    client.close()
    mailbox.send([Delivered("a", (1,))])
    assert mailbox.receive(wait=True) == [Shutdown()]


def test_a_waiting_receive_is_woken_from_another_thread_and_then_sleeps_again(ends: Ends) -> None:
    client, mailbox = ends
    woken = threading.Event()

    def wait() -> None:
        assert mailbox.receive(wait=True) == []
        woken.set()
        assert mailbox.receive(wait=True) == [Cancel("a")]

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    assert not woken.wait(0.05)
    mailbox.wake()
    assert woken.wait(5)
    client.sendall(encode([Cancel("a")]))
    waiter.join(5)
    assert not waiter.is_alive()


def test_ringing_without_end_blocks_nobody(ends: Ends) -> None:
    _, mailbox = ends
    for _ in range(100_000):
        mailbox.wake()
    assert mailbox.receive(wait=True) == []
