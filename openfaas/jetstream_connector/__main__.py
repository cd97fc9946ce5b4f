"""Carry JetStream messages to functions until SIGTERM, then finish what is in flight."""

import asyncio
from typing import NoReturn

from bucky import log
from bucky.broker.connection import connect, disconnect
from bucky.errors import BrokerUnavailable
from bucky.runtime.garbage import freeze_loaded
from bucky.runtime.http_server import HttpServer, stop_signal
from bucky.runtime.process import run_process
from bucky.settings import Settings
from jetstream_connector.calls import GatewayClient
from jetstream_connector.connector import Connector
from jetstream_connector.discovery import GatewayDirectory, StackFileDirectory
from jetstream_connector.metrics import Metrics
from jetstream_connector.pages import pages


def directory_of(settings: Settings) -> GatewayDirectory | StackFileDirectory:
    """Return the place where functions are found."""
    if settings.connector_stack_file is not None:
        return StackFileDirectory(settings.connector_stack_file)
    return GatewayDirectory(settings.gateway_url, settings.gateway_user, settings.gateway_password.get_secret_value())


async def run(settings: Settings) -> None:
    """Wire the process and run it until it is told to stop."""
    stop = stop_signal()
    client = await connect(settings, "jetstream-connector")
    directory = directory_of(settings)
    caller = GatewayClient(settings.gateway_url)
    metrics = Metrics()
    connector = Connector(
        *(client, directory, caller, metrics, settings.connector_refresh_seconds, settings.nats_replicas),
        settings.queue_normal_seconds,
    )
    server = HttpServer(pages(connector, metrics), settings.connector_http_host, settings.connector_http_port)
    await server.start()
    freeze_loaded()
    log.get_logger("connector").info("connector.started", port=server.port)

    watching = asyncio.create_task(_stopped_by_loss(client.ended, stop))
    await connector.run(stop)
    watching.cancel()

    await server.stop()
    await caller.close()
    await directory.close()
    lost = client.ended.is_set()
    await disconnect(client)
    log.get_logger("connector").info("connector.stopped")
    if lost:
        raise BrokerUnavailable("the connection to NATS was closed for good; start the connector again")


async def _stopped_by_loss(ended: asyncio.Event, stop: asyncio.Event) -> None:
    """Stop when the connection is lost for good."""
    await ended.wait()
    stop.set()


def main() -> NoReturn:
    """Run the process."""
    run_process("jetstream_connector", run)


if __name__ == "__main__":
    main()
