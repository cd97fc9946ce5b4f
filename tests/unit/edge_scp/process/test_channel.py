"""The channel between the edge's parent and a child, when one side is faster than the other."""

import asyncio
import socket
from pathlib import Path

from edge_scp.process.channel import Channel, Message, channel_pair

# The kernel keeps some 280 messages that are not read.
MANY = 1000


def test_what_there_is_no_room_for_waits_in_order() -> None:
    """Messages and their connections arrive in the order they were sent, however many are unread."""

    async def sent_and_read() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = channel_pair()
        numbers: list[int] = []
        connected: list[bool] = []
        done = asyncio.Event()

        def received(message: Message, connection: socket.socket | None) -> None:
            numbers.append(message["number"])
            connected.append(connection is not None)
            if connection is not None:
                assert connection.recv(8) == str(message["number"]).encode()
                connection.close()
            if len(numbers) == MANY:
                done.set()

        sender = Channel(ours, lambda _message, _connection: None, lambda: None)
        for number in range(MANY):
            connection = peer_saying(str(number)) if number % 2 else None
            assert sender.send({"number": number}, connection)
            assert connection is None or connection.fileno() < 0
        assert sender.behind
        reader = Channel(theirs, received, lambda: None)
        await asyncio.wait_for(done.wait(), 10)
        assert numbers == list(range(MANY))
        assert connected == [bool(number % 2) for number in numbers]
        assert not sender.behind
        assert loop.remove_writer(ours.fileno()) is False
        sender.close()
        reader.close()

    asyncio.run(sent_and_read())


def test_what_waits_for_an_end_that_is_gone_is_closed() -> None:
    """When the other end goes away the sender is told, further messages are refused, and no descriptor is left."""

    async def lost() -> None:
        before = open_descriptors()
        ours, theirs = channel_pair()
        told = asyncio.Event()
        sender = Channel(ours, lambda _message, _connection: None, told.set)
        for number in range(MANY):
            assert sender.send({"number": number}, peer_saying(""))
        theirs.close()
        await asyncio.wait_for(told.wait(), 10)
        assert not sender.send({"number": MANY})
        assert open_descriptors() == before

    asyncio.run(lost())


def peer_saying(words: str) -> socket.socket:
    """Return a connection whose other side said this and closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(words.encode())
    return ours


def open_descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))
