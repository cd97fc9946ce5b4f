"""The first connection to a broker that is not there."""

import asyncio

import pytest

from bucky import broker
from bucky.errors import BrokerUnavailable
from bucky.settings import Settings

NOBODY = Settings.load({"BUCKY_NATS_URL": "nats://127.0.0.1:9"})


async def test_a_missing_broker_is_reported_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process must learn that the broker is missing, not wait in its first connection for ever."""
    monkeypatch.setattr(broker, "CONNECT_TIMEOUT_SECONDS", 0.3)
    with pytest.raises(BrokerUnavailable, match="ConnectionRefusedError"):
        await asyncio.wait_for(broker.connect(NOBODY, "test"), 5)


async def test_connecting_can_be_cancelled_at_any_moment() -> None:
    """A process that is told to end while the broker is away must end; the client loses cancellations."""
    for turns in range(60):
        connecting = asyncio.create_task(broker.connect(NOBODY, "test"))
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        done, _ = await asyncio.wait({connecting}, timeout=5)
        assert done
        assert connecting.cancelled()
