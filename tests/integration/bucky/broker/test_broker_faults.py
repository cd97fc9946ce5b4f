"""One connection to NATS, and everything that can happen to it: it is there again by itself, or says that it ended."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from secrets import token_hex
from urllib.parse import urlsplit

import pytest
from nats.errors import Error as NatsError

from bucky.broker import client as broker_client
from bucky.broker import connection
from bucky.broker.client import LastingClient
from bucky.broker.connection import JetStreamPublisher, connect, disconnect
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent
from bucky.errors import BrokerUnavailable
from bucky.settings import Settings
from tests.support.network.faulty_line import FaultyLine
from tests.support.servers import Running, make_nats
from tests.support.waiting import PATIENCE, until


@dataclass
class BrokerWorld:
    """A client, the line it is on, and the server behind it."""

    client: LastingClient
    line: FaultyLine
    server: Running
    name: str = field(default_factory=lambda: token_hex(4))
    numbers: int = 0

    async def publishes(self) -> bool:
        """Say whether an event gets into its stream."""
        self.numbers += 1
        event = CloudEvent(id=f"event-{self.name}-{self.numbers}", source="/test", type="dicom.instance.stored")
        try:
            await JetStreamPublisher(self.client.jetstream()).publish(event)
        except BrokerUnavailable:
            return False
        return True


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Settings]]:
    """One nats-server for this module: each test leaves it running."""
    server, settings = make_nats(tmp_path_factory.mktemp("nats"))
    yield server, settings
    server.stop()


@pytest.fixture
async def world(shared_server: tuple[Running, Settings], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BrokerWorld]:
    """A client of a real nats-server, over a line that can be broken."""
    monkeypatch.setattr(broker_client, "PING_SECONDS", 0.2)
    monkeypatch.setattr(broker_client, "RECONNECT_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(connection, "PUBLISH_TIMEOUT_SECONDS", 1.0)
    server, settings = shared_server
    port = urlsplit(settings.nats_url).port
    assert port is not None
    with FaultyLine(port) as line:
        client = await connect(settings.model_copy(update={"nats_url": f"nats://127.0.0.1:{line.port}"}), "test")
        assert isinstance(client, LastingClient)
        await ensure_streams(client.jetstream())
        yield BrokerWorld(client, line, server)
        await disconnect(client)


ERRORS = (
    "Unknown Protocol Operation",
    "Attempted To Connect To Route Port",
    "Authorization Violation",
    "Authorization Timeout",
    "Invalid Client Protocol",
    "Maximum Control Line Exceeded",
    "Parser Error",
    "Secure Connection - TLS Required",
    "Stale Connection",
    "Maximum Connections Exceeded",
    "Slow Consumer",
    "Maximum Payload Violation",
    "Invalid Subject",
    "User Authentication Expired",
    "a word that no version has said yet",
)


async def test_no_error_line_of_the_server_ends_the_client(world: BrokerWorld) -> None:
    """The server's `-ERR`, whichever it is, costs a connection; a process must not need to be restarted for it."""
    heard = asyncio.Event()

    async def note(_message: object) -> None:
        heard.set()

    await world.client.subscribe("news", cb=note)
    for number, said in enumerate(ERRORS, 1):
        world.line.inject(f"-ERR '{said}'\r\n".encode())
        await until(lambda number=number: world.client.stats["reconnects"] >= number, said)  # type: ignore[misc]
        await until(world.publishes, f"events go after {said}")
    await world.client.publish("news", b"still subscribed")
    await until(heard.is_set, "a subscription outlives its connection")
    assert not world.client.ended.is_set()


async def test_a_refused_permission_costs_nothing(world: BrokerWorld) -> None:
    """Where a subject is not ours to use, the connection is; it stays as it is."""
    world.line.inject(b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n")
    await until(lambda: world.client.trouble is not None)
    assert await world.publishes()
    assert world.client.stats["reconnects"] == 0


def restart(world: BrokerWorld) -> None:
    """Kill the server, and start it on the same data."""
    world.server.kill()
    world.server.start()


BREAKS: dict[str, Callable[[BrokerWorld], None]] = {
    "closed": lambda world: world.line.cut(),
    "reset": lambda world: world.line.cut(reset=True),
    "half open": lambda world: world.line.silence(),
    "refused": lambda world: world.line.refuse(),
    "restarted": restart,
    "garbage": lambda world: world.line.inject(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "not UTF-8": lambda world: world.line.inject(b"INFO \xff\xfe\r\n"),
}


@pytest.mark.parametrize("fault", BREAKS)
async def test_the_client_is_there_again_after(fault: str, world: BrokerWorld) -> None:
    """Whatever happens to a connection, the client finds out, makes another, and events go again."""
    assert await world.publishes()
    BREAKS[fault](world)
    if fault not in {"closed", "restarted"}:
        await until(lambda: not world.client.is_connected or world.client.stats["reconnects"] > 0, "it is noticed")
    world.line.heal()
    await until(lambda: world.client.stats["reconnects"] > 0, "it has connected again")
    await until(world.publishes, "events go again")


async def test_a_half_open_connection_full_of_what_was_never_taken_is_left(world: BrokerWorld) -> None:
    """Closing it the usual way would wait, for many minutes, until somebody takes what was written."""
    world.line.silence()
    flood = b"x" * 500_000
    for _ in range(40):
        with contextlib.suppress(NatsError, TimeoutError):
            await asyncio.wait_for(world.client.publish("flood", flood), 0.2)
    await until(lambda: not world.client.is_connected, "it is noticed")
    world.line.heal()
    await until(world.publishes, "events go again")


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-OpenSSH\r\n", b"INFO {\r\n", b"INFO \xff\xfe{}\r\n", b"INFO" + b"x" * 200_000 + b"\r\n"]
)
async def test_somebody_else_at_its_address_is_no_end(greeting: bytes, world: BrokerWorld) -> None:
    """While another program answers at the broker's address, the client goes on asking; then the broker is back."""
    behind = world.line.to
    greeted = asyncio.Event()

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        greeted.set()
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as stranger:
        world.line.to = stranger.sockets[0].getsockname()[1]
        world.line.cut()
        for _ in range(2):
            await until(greeted.is_set, "the stranger was asked")
            greeted.clear()
        world.line.to = behind
    await until(world.publishes, "events go again")


async def test_refused_credentials_are_tried_again(world: BrokerWorld) -> None:
    """A password that is wrong for a while, as while it is being changed, is no end."""
    server = world.server
    right = server.program
    server.kill()
    server.program = replace(right, env={**right.env, "BUCKY_NATS_PASSWORD": '"another"'})
    server.start()
    await until(lambda: "Authorization" in str(world.client.trouble), "the server refuses us")
    server.kill()
    server.program = right
    server.start()
    await until(world.publishes, "events go again")


async def test_a_name_that_resolves_to_another_address_is_followed(
    world: BrokerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that moved is found where its name says it is, each time anew."""
    real, asked = socket.getaddrinfo, ["127.0.0.9"]

    def resolve(host: str, *arguments: object, **named: object) -> object:
        return real(asked[0] if host == "broker.test" else host, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for server in world.client._server_pool:
        server.uri = server.uri._replace(netloc=f"broker.test:{world.line.port}")
    world.line.cut()
    await until(lambda: not world.client.is_connected, "nobody is where it is said to be")
    asked[0] = "127.0.0.1"
    await until(world.publishes, "events go again")


async def test_an_end_that_nobody_asked_for_is_told(world: BrokerWorld) -> None:
    """Should the client end all the same, its process learns of it and can end too, for its supervisor."""
    await world.client.close()
    await asyncio.wait_for(world.client.ended.wait(), 5)


async def test_connecting_can_be_cancelled_while_the_broker_answers(nats_settings: Settings) -> None:
    """A process that is told to end while it connects must end, however far its connection has come."""
    for turns in range(0, 120, 3):
        connecting = asyncio.create_task(connect(nats_settings, "test"))
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=PATIENCE)
        if connecting.cancelled():
            continue
        assert connecting.done()
        await disconnect(connecting.result())
