"""The admin API process, wired on one page: `python -m admin_api`."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn

from admin_api.app import create_app
from admin_api.authentication import Authenticator
from admin_api.broker_link import BrokerLink
from admin_api.dead_letters import DeadLetterBox
from admin_api.health import HealthBoard, checks_of
from admin_api.index_link import migrated
from bucky.errors import BuckyError
from bucky.index import Index
from bucky.log import configure
from bucky.objects import S3ObjectStore
from bucky.settings import Settings

HOST = "127.0.0.1"
DRAIN_SECONDS = 10


def run(settings: Settings) -> None:
    """Serve until SIGTERM, then finish what is being answered."""
    authenticator = Authenticator(settings.api_key.get_secret_value())
    index = Index.open(settings.index_url.get_secret_value())
    objects = S3ObjectStore(settings)
    link = BrokerLink(settings)
    http = httpx.AsyncClient(trust_env=False)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with http, link.open(), migrated(index):
            yield

    app = create_app(
        authenticator=authenticator,
        index=index,
        objects=objects,
        dead_letters=DeadLetterBox(link),
        health=HealthBoard(checks_of(settings, index, objects, link, http)),
        running=running(),
    )
    # uvicorn raises the signal again once it has drained: that is the end we wanted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    uvicorn.run(
        app,
        host=HOST,
        port=settings.admin_port,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=256,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


def main() -> None:
    """Read the settings and run; what Bucky foresaw is one sentence and exit code 1."""
    try:
        settings = Settings.load(os.environ)
        configure(settings.log_level)
        run(settings)
    except BuckyError as error:
        sys.stderr.write(f"admin-api: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
