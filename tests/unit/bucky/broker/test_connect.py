"""The first connection to a broker that is not there."""

import asyncio

import pytest

from bucky.broker import connection
from bucky.errors import BrokerUnavailable
from bucky.settings import Settings

NOBODY = Settings.load({"BUCKY_NATS_URL": "nats://127.0.0.1:9"})


async def test_a_missing_broker_is_reported_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process must learn that the broker is missing, not wait in its first connection for ever."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.3)
    with pytest.raises(BrokerUnavailable, match="ConnectionRefusedError"):
        await asyncio.wait_for(connection.connect(NOBODY, "test"), 5)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_connection_that_is_given_up_is_closed(cancelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that keeps trying a broker which accepts and says nothing must not run out of sockets."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.3)
    accepted, closed = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()
        closed.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = Settings.load({"BUCKY_NATS_URL": f"nats://127.0.0.1:{port}"})
        connecting = asyncio.create_task(connection.connect(settings, "test"))
        await asyncio.wait_for(accepted.wait(), 5)
        if cancelled:
            connecting.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else BrokerUnavailable):
            await connecting
        await asyncio.wait_for(closed.wait(), 5)


async def test_connecting_can_be_cancelled_at_any_moment() -> None:
    """A process that is told to end while the broker is away must end; the client loses cancellations."""
    for turns in range(60):
        connecting = asyncio.create_task(connection.connect(NOBODY, "test"))
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        done, _ = await asyncio.wait({connecting}, timeout=60)
        assert done
        assert connecting.cancelled()
