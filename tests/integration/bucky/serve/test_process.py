"""`python -m bucky.serve` as a process: starting, readiness, draining on SIGTERM."""

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest

from bucky.cloudevents import BATCH_MEDIA_TYPE, CloudEvent
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from tests.support.connector.connector_world import ended, process, ready
from tests.support.servers import Running
from tests.support.waiting import until


def batch(*events: CloudEvent) -> bytes:
    """Return a batch's body."""
    return json.dumps([event.model_dump(mode="json", exclude_none=True) for event in events]).encode()


def event(identifier: str, **data: object) -> CloudEvent:
    """Return an event for the worker."""
    return CloudEvent(id=identifier, source="/test", type="work.item", data=data)


async def post(client: httpx.AsyncClient, *events: CloudEvent) -> httpx.Response:
    """Post a batch."""
    return await client.post("/", content=batch(*events), headers={"content-type": BATCH_MEDIA_TYPE})


def client_of(port: int) -> httpx.AsyncClient:
    """Return a client of the function on a port."""
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=120)


async def test_sigterm_finishes_the_batch_in_flight_and_refuses_new_ones(tmp_path: Path) -> None:
    """Protects a rolling update: the batch in flight is answered, new ones are sent elsewhere, exit code 0."""
    port = free_port()
    environ = {"BUCKY_HANDLER": "tests.support.functions.serve_worker", "BUCKY_SERVE_PORT": str(port)}
    with process("bucky.serve", environ, tmp_path / "serve.log") as running:
        async with client_of(port) as client:
            await ready(f"http://127.0.0.1:{port}/_/ready")
            slow = asyncio.create_task(post(client, event("slow", seconds=1.5)))

            async def in_flight() -> bool:
                return bool((await client.get("/health")).json()["in_flight"] == 1)

            await until(in_flight)
            running.send_signal(signal.SIGTERM)

            async def refusing() -> bool:
                return (await client.get("/ready")).status_code == 503

            await until(refusing)
            refused = await post(client, event("new"))
            assert (refused.status_code, refused.json()) == (503, {"error": "draining"})
            assert refused.headers["retry-after"] == "1"
            answered = await slow
            assert [made["id"] for made in answered.json()["events"]] == ["slow"]
        assert await ended(running) == 0
    assert "function.stopped" in (tmp_path / "serve.log").read_text()


async def test_batches_run_side_by_side_and_checks_are_answered_meanwhile(tmp_path: Path) -> None:
    """Protects liveness: sync handlers run in threads, so a slow batch stops neither another nor a check."""
    port = free_port()
    environ = {"BUCKY_HANDLER": "tests.support.functions.serve_worker", "BUCKY_SERVE_PORT": str(port)}
    with process("bucky.serve", environ, tmp_path / "serve.log"):
        async with client_of(port) as client:
            await ready(f"http://127.0.0.1:{port}/ready")
            slow = asyncio.create_task(post(client, event("slow", seconds=1)))
            fast = await post(client, event("fast"))
            assert (await client.get("/ready")).status_code == 200
            assert (fast.status_code, slow.done()) == (200, False)
            assert (await slow).status_code == 200
            metrics = (await client.get("/metrics")).text
    assert 'bucky_function_events_total{function="serve-worker",outcome="success"} 2.0' in metrics
    assert "worker_events_total 2.0" in metrics, "what the handler itself measures"


async def test_readiness_follows_the_object_store(store_server: tuple[Running, Settings], tmp_path: Path) -> None:
    """Protects events from a function whose store is away: it is alive, not ready, and takes no event."""
    server, settings = store_server
    port = free_port()
    environ = {
        "BUCKY_HANDLER": "tests.support.functions.serve_reader",
        "BUCKY_SERVE_PORT": str(port),
        "BUCKY_STORE_ENDPOINT": settings.store_endpoint,
        "BUCKY_STORE_ACCESS_KEY": settings.store_access_key.get_secret_value(),
        "BUCKY_STORE_SECRET_KEY": settings.store_secret_key.get_secret_value(),
    }
    with process("bucky.serve", environ, tmp_path / "serve.log"):
        async with client_of(port) as client:

            async def reason() -> str:
                response = await client.get("/ready")
                return str(response.json().get("reason", response.json()["status"]))

            async def without_bucket() -> bool:
                return "'bucky' does not exist" in await reason()

            await ready(f"http://127.0.0.1:{port}/health")
            await until(without_bucket)
            assert (await post(client, event("a"))).status_code == 503
            S3ObjectStore(settings).ensure_bucket()
            await ready(f"http://127.0.0.1:{port}/ready")
            (failure,) = (await post(client, event("a"))).json()["batchItemFailures"]
            assert (failure["reason"], failure["retryable"]) == ("the object store has no missing", False)
            server.kill()

            async def away() -> bool:
                return (await reason()).startswith("objects: the object store cannot be reached")

            await until(away)
            assert (await client.get("/health")).status_code == 200
            assert (await post(client, event("a"))).status_code == 503


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"BUCKY_HANDLER": "no.such.handler"}, "bucky.serve: BUCKY_HANDLER=no.such.handler: there is no module no"),
        ({}, "bucky.serve: BUCKY_HANDLER names no module"),
        ({"BUCKY_HANDLER": "bucky.trace"}, "bucky.serve: bucky.trace defines none"),
    ],
)
async def test_a_function_that_cannot_start_says_why_in_a_sentence(
    environ: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    """Protects whoever deploys from a traceback: exit code 1 and one sentence."""
    with process("bucky.serve", environ, tmp_path / "serve.log") as running:
        assert await ended(running) == 1
    log = (tmp_path / "serve.log").read_text()
    assert sentence in log
    assert "Traceback" not in log


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """Protects whoever starts it twice: the sentence names the port."""
    port = free_port()
    environ = {"BUCKY_HANDLER": "tests.support.functions.serve_worker", "BUCKY_SERVE_PORT": str(port)}
    with process("bucky.serve", environ, tmp_path / "first.log"):
        await ready(f"http://127.0.0.1:{port}/health")
        with process("bucky.serve", environ, tmp_path / "second.log") as second:
            assert await ended(second) == 1
    assert f"port {port} on 127.0.0.1 is taken" in (tmp_path / "second.log").read_text()
