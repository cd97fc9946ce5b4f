"""`bucky demo`: real DICOM the whole way, and a count of what arrived at each station.

It passes only when every acceptable instance is stored, indexed and delivered with the same data set
bytes everywhere, and every other was refused with a reason.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bucky.cli.api_client import Access, ApiClient
from bucky.cli.send import send_with_progress
from bucky.cloudevents import utc_now
from bucky.dimse import Peer
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from local_stack.commands import (
    DEFAULT_HOME,
    AsJson,
    FreePorts,
    HomeOption,
    addresses,
    running,
    start_detached,
    stop_stack,
)
from local_stack.demo_data import DemoFile, Expected, demo_files
from local_stack.demo_report import DemoResult, compare, digests_in_bucket, show
from local_stack.demo_routing import DESTINATION, ensure_demo_routing
from local_stack.destination import received
from local_stack.layout import CannotStart, Home, Ports
from local_stack.stack import build

PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.25
PAGE = 1000


def demo(
    home: HomeOption = DEFAULT_HOME,
    free_ports: FreePorts = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the stack afterwards.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send real DICOM from modality to destination and show what arrived; exit 1 when anything is missing."""
    place = Home(home)
    console = Console(stderr=as_json, soft_wrap=True)
    was_running = running(place)
    try:
        with console.status("Reusing the running stack" if was_running else "Starting the stack"):
            start_detached(place, free_ports=free_ports, with_destination=True)
        outcome = _run(place, console)
    finally:
        if stop:
            stop_stack(place)
    if as_json:
        typer.echo(json.dumps(asdict(outcome), indent=2))
    if not stop:
        for line in addresses(place, keys=console.is_terminal):
            console.print(line, highlight=False, markup=False)
        console.print("The stack keeps running; `make down` stops it.")
    if outcome.problems:
        raise typer.Exit(1)


def _run(home: Home, console: Console) -> DemoResult:
    record = home.read_record() or {}
    if "demo-destination" not in record.get("processes", {}):
        raise CannotStart("the running stack has no demo destination; stop it with `make down` and try again")
    ports = Ports(**record["ports"])
    access = Access(record["public_url"], home.secret("api_key"), home.tls / "ca.pem")
    with ApiClient(access) as api:
        ensure_demo_routing(api, ports.destination)
        files = demo_files(home.demo_files)
        began = utc_now()
        peer = Peer("BUCKY", "127.0.0.1", ports.dicom, calling_aet="MODALITY")
        report = send_with_progress([file.path for file in files], peer, 4, console)
        accepted = [file for file in files if file.expected is Expected.ACCEPTED]
        deliveries = _await_deliveries(api, accepted, console)
        with console.status("Comparing digests in the bucket and at the destination"):
            store = S3ObjectStore(_over_https(home, ports))
            in_bucket = digests_in_bucket(store, deliveries)
            outcome = compare(files, report, deliveries, in_bucket, set(received(home.destination)), began)
    show(outcome, console)
    return outcome


def _over_https(home: Home, ports: Ports) -> Settings:
    """Return settings that reach the object store as a user does: through Traefik."""
    settings = build(home, ports, os.environ).settings
    return settings.model_copy(
        update={
            "store_endpoint": f"https://localhost:{ports.s3_https}",
            "store_ca_file": home.tls / "ca.pem",
        }
    )


def _await_deliveries(api: ApiClient, accepted: Sequence[DemoFile], console: Console) -> list[dict[str, Any]]:
    """Wait until every accepted file is delivered, or time is up; return the delivery rows."""
    wanted = {file.sha256 for file in accepted}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    deadline = time.monotonic() + PATIENCE_SECONDS
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("Delivered", total=len(wanted))
        while True:
            rows = [row for row in _deliveries(api) if row["sha256"] in wanted]
            done = {row["sha256"] for row in rows if row["state"] == "delivered"}
            progress.update(task, completed=len(done))
            if done == wanted or time.monotonic() > deadline:
                return rows
            time.sleep(POLL_SECONDS)


def _deliveries(api: ApiClient) -> Iterator[dict[str, Any]]:
    after: str | None = None
    while True:
        params: dict[str, str | int | None] = {"destination": DESTINATION, "limit": PAGE, "after": after}
        page = api.get("/api/deliveries", params)
        yield from page["items"]
        after = page["next"]
        if after is None:
            return
