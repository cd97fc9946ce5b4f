"""Calls on kept connections: every way an answer may come, or not come, has its name."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from bucky.runtime.connection_pool import Broken, CallFailed, ConnectionPool, HttpResponse, NotConnected, Silent
from bucky.runtime.ports import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nRetry-After: 7\r\n\r\nhello"
HEAD = b"POST /x HTTP/1.1\r\nHost: here\r\nContent-Length: 3"


class Scripted:
    """A server that answers each request with the next pieces, and notes the connections and what came."""

    def __init__(self, *answers: Sequence[bytes | None]) -> None:
        self.answers, self.connections, self.requests = list(answers), 0, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection; a piece of None closes it."""
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n") and await reader.readexactly(3) == b"abc":
                self.requests += 1
                for piece in self.answers.pop(0) if self.answers else ():
                    if piece is None:
                        return
                    writer.write(piece)
                    await writer.drain()
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def _calling(server: Scripted, idle_seconds: float = 5) -> AsyncIterator[ConnectionPool]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    kept = ConnectionPool("127.0.0.1", listening.sockets[0].getsockname()[1], idle_seconds=idle_seconds)
    try:
        yield kept
    finally:
        kept.close()
        listening.close()


async def _call(kept: ConnectionPool, silence: float = 5) -> HttpResponse:
    return await kept.call(HEAD, b"abc", silence=silence, most_bytes=1000)


async def test_calls_after_each_other_share_a_connection() -> None:
    """What a connection costs is paid once, whether the answers are of known length or in chunks."""
    chunked = [b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe", b"\r\n3\r\nllo\r\n0\r\n\r\n"]
    server = Scripted([OK], [OK[:30], OK[30:]], chunked, [b"HTTP/1.1 100 Continue\r\n\r\n", OK])
    async with _calling(server) as kept:
        answers = [await _call(kept) for _ in range(4)]
    assert [(answer.status, bytes(answer.body)) for answer in answers] == [
        *[(200, b"hello")] * 2,
        (503, b"hello"),
        (200, b"hello"),
    ]
    assert answers[0].header(b"retry-after") == "7"
    assert answers[0].header(b"nothing") is None
    assert (server.connections, server.requests) == (1, 4)


async def test_calls_at_the_same_time_have_connections_of_their_own() -> None:
    """A slow function never holds up another's call."""
    server = Scripted(*[[OK]] * 5)
    async with _calling(server) as kept:
        answers = await asyncio.gather(*(_call(kept) for _ in range(5)))
        assert server.connections == 5
    assert all(answer.status == 200 for answer in answers)


@pytest.mark.parametrize(
    ("pieces", "failure"),
    [
        ([], Silent),
        ([OK[:20]], Silent),
        ([None], Broken),
        ([OK[:-2], None], Broken),
        ([b"220 mail.example.org ESMTP\r\n"], Broken),
    ],
)
async def test_an_answer_that_does_not_come_is_a_failure_with_a_name(
    pieces: list[bytes | None], failure: type[CallFailed]
) -> None:
    """Silence, a lost connection and nonsense are told apart, and the next call is not harmed by them."""
    server = Scripted(pieces, [OK])
    async with _calling(server) as kept:
        with pytest.raises(failure):
            await _call(kept, silence=0.2)
        assert (await _call(kept)).status == 200
    assert server.connections == 2


async def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    """A server of the older kind says the length of its answer by closing."""
    server = Scripted([b"HTTP/1.0 200 OK\r\n\r\nhello", None], [OK])
    async with _calling(server) as kept:
        assert bytes((await _call(kept)).body) == b"hello"
        assert (await _call(kept)).status == 200
    assert server.connections == 2


async def test_an_answer_without_end_is_cut_short() -> None:
    """No answer fills the memory."""
    server = Scripted([b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"x" * 2000], [OK])
    async with _calling(server) as kept:
        answer = await _call(kept)
        assert answer.cut_short
        assert (await _call(kept)).status == 200


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    """A server may be closing it just then, and the call would be lost."""
    server = Scripted([OK], [OK])
    async with _calling(server, idle_seconds=0) as kept:
        await _call(kept)
        await _call(kept)
    assert server.connections == 2


async def test_nobody_there_means_that_nothing_was_sent() -> None:
    """What was not sent may be sent elsewhere."""
    with pytest.raises(NotConnected):
        await _call(ConnectionPool("127.0.0.1", free_port(), idle_seconds=5))
