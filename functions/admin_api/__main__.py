"""The admin API process, wired on one page: `python -m admin_api`."""

from typing import NoReturn

import httpx

from admin_api.app import create_app
from admin_api.authentication import Authenticator
from admin_api.broker_link import BrokerConnection
from admin_api.dead_letters import DeadLetterBox
from admin_api.health import HealthBoard, checks_of
from admin_api.index_link import migrated
from bucky.forwarding.places import Places
from bucky.index import Index
from bucky.routing.crosswalk import Crosswalks
from bucky.runtime.http_server import HttpServer, stop_signal
from bucky.runtime.process import run_process
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore

HOST = "127.0.0.1"


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM, then finish what is being answered."""
    authenticator = Authenticator(settings.api_key.get_secret_value())
    index = Index.open(settings.index_url.get_secret_value())
    objects = S3ObjectStore(settings)
    link = BrokerConnection(settings)
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


def main() -> NoReturn:
    """Run the process."""
    run_process("admin-api", serve)


if __name__ == "__main__":
    main()
