"""`bucky up` and `bucky down`: start and stop the embedded stack."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from local_stack.layout import CannotStart, Home, Ports
from local_stack.process import last_line
from local_stack.stack import build
from local_stack.supervisor import Supervisor, end_leftovers, start_time

START_SECONDS = 120.0
STOP_SECONDS = 60.0
_SIGNS = {
    "ready": "[green]✓[/]",
    "ended": "[red]✗[/]",
    "stuck": "[yellow]![/]",
    "restarted": "[yellow]↻[/]",
    "stopped": "[dim]·[/]",
}

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="BUCKY_HOME", help="Folder that holds everything the stack writes.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FreePorts = Annotated[bool, typer.Option("--free-ports", help="Choose free ports instead of the usual ones.")]
DEFAULT_HOME = Path(".bucky")


def up(
    home: HomeOption = DEFAULT_HOME,
    free_ports: FreePorts = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is ready; `bucky down` ends it.")] = False,
    with_destination: Annotated[
        bool, typer.Option("--with-destination", help="Also run the demo destination, a C-STORE SCP.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Start with another index, bucket or streams than this home had."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per change of a program.")] = False,
) -> None:
    """Start the whole stack and keep it running until Ctrl-C."""
    place = Home(home)
    if detach:
        start_detached(place, free_ports=free_ports, with_destination=with_destination, accept_changes=accept_changes)
        return
    console = Console(stderr=True, soft_wrap=True)

    def report(program: str, state: str, detail: str) -> None:
        if as_json:
            typer.echo(json.dumps({"program": program, "state": state, "detail": detail}))
            return
        stamp = time.strftime("%H:%M:%S")
        console.print(f"[dim]{stamp}[/] {_SIGNS[state]} {program:<17} {state:<10}{detail}", highlight=False)

    asked_to_end = _end_on_signals()
    place.create()
    stack = build(place, Ports.free() if free_ports else Ports(), os.environ, demo=with_destination)
    with Supervisor(stack, report, asked_to_end, accept_changes=accept_changes) as supervisor:
        supervisor.start()
        for line in () if as_json else addresses(place):
            console.print(line, highlight=False)
        supervisor.watch()


def down(home: HomeOption = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Stop the stack that runs in this home; nothing it holds is lost."""
    stopped = stop_stack(Home(home))
    if as_json:
        typer.echo(json.dumps({"stopped": stopped}))
    else:
        typer.echo("stopped" if stopped else "nothing runs here")


def stop_stack(place: Home) -> bool:
    """Stop the stack and end what it left; return whether there was anything to stop."""
    record = place.read_record()
    if record is None:
        return False
    if running(place):
        os.kill(record["supervisor"], signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while running(place):
            if time.monotonic() > deadline:
                raise CannotStart(f"the stack did not stop in {STOP_SECONDS:.0f} s; process {record['supervisor']}")
            time.sleep(0.1)
    end_leftovers(place)
    place.record.unlink(missing_ok=True)
    return True


def start_detached(
    home: Home, *, free_ports: bool = False, with_destination: bool = False, accept_changes: bool = False
) -> None:
    """Run `bucky up` in the background and wait until it is ready; do nothing when it runs already."""
    if running(home) and (home.read_record() or {}).get("ready"):
        return
    home.create()
    log_file = home.logs / "stack.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            (
                *(sys.executable, "-m", "bucky.cli", "up", "--home", str(home.path)),
                *(("--free-ports",) if free_ports else ()),
                *(("--with-destination",) if with_destination else ()),
                *(("--accept-changes",) if accept_changes else ()),
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while not (running(home) and (home.read_record() or {}).get("ready")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotStart(f"{last_line(log_file)} (log: {log_file})")
        time.sleep(0.1)


def running(home: Home) -> bool:
    """Say whether a supervisor runs in this home."""
    record = home.read_record()
    return record is not None and start_time(record["supervisor"]) is not None


def addresses(home: Home) -> list[str]:
    """Return the lines that tell a user where things are and how to get in."""
    record = home.read_record() or {}
    ports = record["ports"]
    return [
        "",
        f"  API, functions  {record['public_url']}  (documentation: /api/docs)",
        f"  S3              https://localhost:{ports['s3_https']}  (bucket: bucky)",
        f"  Store console   https://localhost:{ports['console_https']}",
        f"  DICOM           BUCKY@127.0.0.1:{ports['dicom']}",
        f"  API key         {home.secret('api_key')}  (header X-Api-Key, or password of user admin)",
        f"  S3 keys         {home.secret('store_access_key')} / {home.secret('store_secret_key')}",
        f"  CA certificate  {home.tls / 'ca.pem'}",
        "",
    ]


def _end_on_signals() -> Callable[[], bool]:
    ending: list[int] = []

    def note(number: int, _frame: object) -> None:
        ending.append(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return lambda: bool(ending)
