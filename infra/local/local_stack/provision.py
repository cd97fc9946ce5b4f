"""Makes what the services expect to find: the bucket, the streams, the index, the functions."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from nats.js import JetStreamContext

from bucky.broker.connection import connect, disconnect, jetstream
from bucky.broker.streams import ensure_streams
from bucky.errors import Retriable
from bucky.index import Index
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from local_provider.client import deploy
from local_stack.belongings import Belongings, check, in_index, stream_births
from local_stack.stack import Stack, stack_file

PATIENCE_SECONDS = 30.0
T = TypeVar("T")


def provision(stack: Stack, *, accept_changes: bool = False) -> Belongings:
    """Create the bucket, the streams and the index schema; running it again changes nothing.

    Returns what the home has. Unless `accept_changes`, raises `CannotStart` when that is not what it had.
    """
    objects = S3ObjectStore(stack.settings)
    patiently(objects.ensure_bucket)
    births = patiently(lambda: asyncio.run(_with_streams(stack.settings, _births)))
    index = Index.open(stack.settings.index_url.get_secret_value())
    try:
        patiently(index.migrate)
        found = in_index(index, births)
        if not accept_changes:
            had = Belongings.read(stack.home.belongings)
            patiently(lambda: check(had, found, objects))
    finally:
        index.close()
    return replace(found, streams=patiently(lambda: asyncio.run(_with_streams(stack.settings, _ensured))))


def deploy_functions(stack: Stack) -> tuple[str, ...]:
    """Deploy the stack file's functions with their secrets; return their names."""
    return deploy(stack_file(), stack.settings)


def patiently(step: Callable[[], T]) -> T:
    """Do a step again while it is retriable: a server that listens may still be settling."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return step()
        except Retriable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


async def _with_streams(settings: Settings, work: Callable[[JetStreamContext, Settings], Awaitable[T]]) -> T:
    client = await connect(settings, "provisioning")
    try:
        return await work(jetstream(client), settings)
    finally:
        await disconnect(client)


async def _births(js: JetStreamContext, _settings: Settings) -> dict[str, str]:
    return await stream_births(js)


async def _ensured(js: JetStreamContext, settings: Settings) -> dict[str, str]:
    await ensure_streams(js, settings.nats_replicas)
    return await stream_births(js)
