"""The API's index: its tables are brought up to date as soon as the database answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from bucky.errors import IndexUnavailable
from bucky.index import Index
from bucky.log import get_logger

RETRY_SECONDS = 1.0


@asynccontextmanager
async def migrated(index: Index) -> AsyncIterator[None]:
    """Migrate in the background while the block runs; close the index at its end."""
    migrating = asyncio.create_task(_migrate(index))
    try:
        yield
    finally:
        migrating.cancel()
        with suppress(asyncio.CancelledError):
            await migrating
        index.close()


async def _migrate(index: Index) -> None:
    while True:
        try:
            await asyncio.to_thread(index.migrate)
        except IndexUnavailable:
            get_logger("admin-api").warning("index.unavailable")
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return
