"""The keeper process, wired on one page: `python -m keeper`.

It declares quiet studies stable, looks after deliveries that are due and after conflicts, and reconciles at
intervals. It keeps nothing itself: it can be killed at any time, and more than one may run.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import NoReturn

import httpx
from nats.errors import Error as NatsError

from bucky.broker.client import LastingClient
from bucky.broker.connection import JetStreamPublisher, connect, disconnect, jetstream
from bucky.errors import BuckyError
from bucky.index import Index
from bucky.log import get_logger
from bucky.runtime.http_server import HttpServer, stop_signal
from bucky.runtime.process import run_process
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from keeper.conflicts import Conflicts
from keeper.evidence import Evidence
from keeper.overdue import LookedAfter, Overdue
from keeper.page import HealthPage, KeeperState
from keeper.reconcile import Reconcile
from keeper.republisher import Republisher
from keeper.sweep import StudySweep

HOST = "127.0.0.1"
SWEEP_SECONDS = 1.0
DUE_SECONDS = 1.0
GIVE_UP_SECONDS = 10.0
RETRY_SECONDS = 1.0
# The first reconciling does not wait a whole period, nor does it meet the other parts starting.
FIRST_RECONCILE_SECONDS = 300.0

logger = get_logger("keeper")


async def serve(settings: Settings) -> None:
    """Work until SIGTERM."""
    state = KeeperState()
    page = HealthPage(state)
    server = HttpServer(page.asgi, HOST, settings.keeper_http_port)
    await server.start()
    stop = asyncio.create_task(stop_signal().wait())
    work = asyncio.create_task(_work(settings, page, state))
    await asyncio.wait([stop, work], return_when=asyncio.FIRST_COMPLETED)
    work.cancel()
    await asyncio.gather(work, return_exceptions=stop.done())
    await server.stop()


async def _work(settings: Settings, page: HealthPage, state: KeeperState) -> None:
    client = await _connected(settings, state)
    index = Index.open(settings.index_url.get_secret_value())
    objects = S3ObjectStore(settings)
    js = jetstream(client)

    async def migrate() -> None:
        await asyncio.to_thread(index.migrate)

    async with httpx.AsyncClient(trust_env=False) as http:
        evidence = Evidence(js, http, settings.edge_health_url)
        quiet, hold = settings.study_quiet_seconds, settings.study_hold_seconds
        sweep = StudySweep(index, JetStreamPublisher(js), evidence, quiet=quiet, hold=hold)
        overdue = Overdue(index, JetStreamPublisher(js))
        conflicts = Conflicts(index, objects, JetStreamPublisher(js))
        grace = settings.reconcile_grace_seconds
        reconcile = Reconcile(objects, index, Republisher(js), settings.store_bucket, grace)

        async def sweep_once() -> None:
            page.swept(await sweep.run())

        async def due_once() -> None:
            page.looked_after(await overdue.run())

        async def give_up_once() -> None:
            page.looked_after(LookedAfter(given_up=await overdue.give_up()))

        async def conflicts_once() -> None:
            await conflicts.run()

        async def reconcile_once() -> None:
            report = await reconcile.run()
            page.reconciled(report)
            counts = {kind.value: found.count for kind, found in report.found.items()}
            logger.info(
                "bucket.reconciled", objects=report.objects, wrong=report.wrong, seconds=report.seconds, found=counts
            )

        try:
            await _until_it_works("index", state, migrate)
            async with asyncio.TaskGroup() as group:
                group.create_task(_while_connected(client, state))
                group.create_task(_again_and_again("sweep", state, sweep_once, SWEEP_SECONDS, SWEEP_SECONDS))
                group.create_task(_again_and_again("due deliveries", state, due_once, DUE_SECONDS, DUE_SECONDS))
                group.create_task(_again_and_again("age limit", state, give_up_once, 0, GIVE_UP_SECONDS))
                group.create_task(_again_and_again("conflicts", state, conflicts_once, DUE_SECONDS, DUE_SECONDS))
                if settings.reconcile_seconds:
                    first = min(settings.reconcile_seconds, FIRST_RECONCILE_SECONDS)
                    every = settings.reconcile_seconds
                    group.create_task(_again_and_again("reconcile", state, reconcile_once, first, every))
        finally:
            await disconnect(client)
            index.close()


async def _while_connected(client: LastingClient, state: KeeperState) -> None:
    """Say while the broker is away; when the connection is lost for good, end, to be started again."""
    while not client.ended.is_set():
        if client.is_connected:
            state.worked("broker")
        else:
            state.failed("broker", "NATS is not connected")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.ended.wait(), RETRY_SECONDS)
    raise SystemExit("keeper: the connection to NATS was closed for good; start the keeper again")


async def _connected(settings: Settings, state: KeeperState) -> LastingClient:
    clients: list[LastingClient] = []

    async def attempt() -> None:
        clients.append(await connect(settings, "keeper"))

    await _until_it_works("broker", state, attempt)
    return clients[0]


async def _until_it_works(name: str, state: KeeperState, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        if await _tried(name, state, work):
            return
        await asyncio.sleep(RETRY_SECONDS)


async def _again_and_again(
    name: str, state: KeeperState, work: Callable[[], Awaitable[None]], first: float, every: float
) -> None:
    await asyncio.sleep(first)
    while True:
        await _tried(name, state, work)
        await asyncio.sleep(every)


async def _tried(name: str, state: KeeperState, work: Callable[[], Awaitable[None]]) -> bool:
    """Do a piece of work; the failure policy of this process is to say what is wrong, and to try again."""
    try:
        await work()
    except (BuckyError, NatsError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        if state.trouble.get(name) != reason:
            logger.warning(f"{name}.failed", reason=reason)
        state.failed(name, reason)
        return False
    except Exception as error:
        logger.exception(f"{name}.unexpected")
        state.failed(name, f"unexpected {type(error).__name__}")
        return False
    state.worked(name)
    return True


def main() -> NoReturn:
    """Run the process."""
    run_process("keeper", serve)


if __name__ == "__main__":
    main()
