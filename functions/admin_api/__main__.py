"""The admin API process, wired on one page: `python -m admin_api`."""

import asyncio
import os
import sys

import httpx

from admin_api.app import create_app
from admin_api.authentication import Authenticator
from admin_api.broker_link import BrokerLink
from admin_api.dead_letters import DeadLetterBox
from admin_api.health import HealthBoard, checks_of
from admin_api.index_link import migrated
from bucky import log
from bucky.errors import BuckyError
from bucky.forwarding.places import Places
from bucky.index import Index
from bucky.routing.crosswalk import Crosswalks
from bucky.runtime.http_server import HttpServer, stop_signal
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore

HOST = "127.0.0.1"


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM, then finish what is being answered."""
    authenticator = Authenticator(settings.api_key.get_secret_value())
    index = Index.open(settings.index_url.get_secret_value())
    objects = S3ObjectStore(settings)
    link = BrokerLink(settings)
    http = httpx.AsyncClient(trust_env=False)
    app = create_app(
        authenticator=authenticator,
        index=index,
        objects=objects,
        dead_letters=DeadLetterBox(link),
        health=HealthBoard(checks_of(settings, index, objects, link, http)),
        link=link,
        crosswalks=Crosswalks(settings.crosswalk_dir),
        places=Places.of(settings),
    )
    server = HttpServer(app, HOST, settings.admin_port)
    stop = stop_signal()
    async with http, link.open(), migrated(index):
        await server.start()
        await stop.wait()
        await server.stop()


def main() -> None:
    """Read the settings and serve; a sentence on stderr says why when that cannot be."""
    try:
        settings = Settings.load(os.environ)
        log.configure(settings.log_level)
        asyncio.run(serve(settings))
    except BuckyError as error:
        sys.exit(f"admin-api: {error}")


if __name__ == "__main__":
    main()
