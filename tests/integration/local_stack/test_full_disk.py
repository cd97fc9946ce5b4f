"""The broker's disk is full for a while: nothing is lost, and when there is room again nobody has to do anything."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bucky.broker.connection import JetStreamPublisher, connect, disconnect
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent
from bucky.errors import BrokerUnavailable
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from local_stack import servers
from local_stack.layout import Home, Ports
from local_stack.read_only import ENOUGH_FREE_BYTES
from local_stack.stack import Stack
from local_stack.supervisor import Supervisor
from tests.support.faults.small_disk import SmallDisk, small_disk
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk with a little more room than the supervisor wants to see."""
    with small_disk(tmp_path / "disk", 2 * ENOUGH_FREE_BYTES // 1024**2) as disk:
        yield disk


async def test_a_broker_that_stays_read_only_is_started_again(tmp_path: Path, disk: SmallDisk) -> None:
    """nats-server refuses writes after its disk was full, room or no room; the supervisor starts it again."""
    home = Home(tmp_path / "home")
    home.create()
    port, password = free_port(), home.secret("nats_password")
    program = servers.nats_server(disk.folder / "nats", port, free_port(), "bucky", password)
    settings = Settings.load(
        {"BUCKY_NATS_URL": f"nats://127.0.0.1:{port}", "BUCKY_NATS_USER": "bucky", "BUCKY_NATS_PASSWORD": password}
    )
    reports: list[tuple[str, str]] = []
    ended = threading.Event()
    stack = Stack(home, Ports.free(), settings, (program,), ())
    with Supervisor(stack, lambda name, state, _detail: reports.append((name, state)), ended.is_set) as supervisor:
        supervisor._start(program)
        watching = asyncio.create_task(asyncio.to_thread(supervisor.watch))
        client = await connect(settings, "test")
        try:
            await ensure_streams(client.jetstream())
            publisher = JetStreamPublisher(client.jetstream())
            event = CloudEvent(id="first", source="/test", type="dicom.instance.stored")
            await publisher.publish(event)
            disk.fill()
            padded = [event.model_copy(update={"id": f"more-{n}", "data": {"x": "x" * 10_000}}) for n in range(100)]
            outcomes = await asyncio.gather(*map(publisher.publish, padded), return_exceptions=True)
            assert any(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
            assert ("nats-server", "stuck") not in reports
            disk.free()

            async def goes() -> bool:
                with suppress(BrokerUnavailable):
                    await publisher.publish(event.model_copy(update={"id": "last"}))
                    return True
                return False

            await until(goes, "events go again")
            assert ("nats-server", "stuck") in reports
            first = await client.jetstream().get_msg("INSTANCES", 1)
            assert CloudEvent.model_validate_json(first.data or b"").id == "first"
        finally:
            await disconnect(client)
            ended.set()
            await watching
