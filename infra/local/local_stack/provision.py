"""Makes what the services expect to find: the bucket, the streams, the index, the functions."""

import asyncio
import time
from collections.abc import Callable

from bucky.broker import connect, disconnect
from bucky.errors import Retriable
from bucky.index import Index
from bucky.objects import S3ObjectStore
from bucky.settings import Settings
from bucky.streams import ensure_streams
from local_provider.client import deploy
from local_stack.stack import Stack, stack_file

PATIENCE_SECONDS = 30.0


def provision(stack: Stack) -> None:
    """Create the bucket, the streams and the index schema; running it again changes nothing."""
    patiently(S3ObjectStore(stack.settings).ensure_bucket)
    patiently(lambda: asyncio.run(_streams(stack.settings)))
    index = Index.open(stack.settings.index_url.get_secret_value())
    try:
        patiently(index.migrate)
    finally:
        index.close()


def deploy_functions(stack: Stack) -> tuple[str, ...]:
    """Deploy the stack file's functions with their secrets; return their names."""
    return deploy(stack_file(), stack.settings)


def patiently(step: Callable[[], None]) -> None:
    """Do a step again while it is retriable: a server that listens may still be settling."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return step()
        except Retriable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


async def _streams(settings: Settings) -> None:
    client = await connect(settings, "provisioning")
    try:
        await ensure_streams(client.jetstream(), settings.nats_replicas)
    finally:
        await disconnect(client)
