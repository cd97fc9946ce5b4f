"""`bucky up` and `bucky down`: start and stop the embedded stack."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bucky.settings import secret_file_name
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
        for line in () if as_json else addresses(place, keys=console.is_terminal):
            console.print(line, highlight=False, markup=False)
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
    log_file.unlink(missing_ok=True)
    with os.fdopen(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as log:
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
            # The command that ran there has said it as a command does.
            raise CannotStart(f"{last_line(log_file).removeprefix('bucky: ')} (log: {log_file})")
        time.sleep(0.1)


def running(home: Home) -> bool:
    """Say whether a supervisor runs in this home."""
    record = home.read_record()
    return record is not None and start_time(record["supervisor"]) is not None


def addresses(home: Home, *, keys: bool) -> list[str]:
    """Return the lines that tell a user where things are and how to get in.

    Without `keys`, for an output that may be kept, they name the files that hold the keys. Keys and addresses of
    others, which the stack was given, are not the home's: those are named, and no key is.
    """
    record = home.read_record() or {}
    ports, given, settings = record["ports"], record.get("given_secrets", []), record.get("settings", {})
    own_store = settings.get("store_endpoint", "").endswith(f":{ports['s3']}")
    lines = [
        f"  API, functions  {record['public_url']}  (documentation: /api/docs)",
        f"  DICOM           {_listening(settings, ports['dicom'])}",
        f"  API key         {_key(home, 'api_key', given, keys=keys)}  (header X-Api-Key, or password of user admin)",
    ]
    if own_store:
        pair = [_key(home, name, given, keys=keys) for name in ("store_access_key", "store_secret_key")]
        bucket = settings.get("store_bucket", "bucky")
        lines += [
            f"  S3              https://localhost:{ports['s3_https']}  (bucket: {bucket})",
            f"  Store console   https://localhost:{ports['console_https']}",
            f"  S3 keys         {' / '.join(pair)}",
        ]
    else:
        lines.append(f"  S3              {settings.get('store_endpoint')}  (as set; it has keys of its own)")
    return ["", *lines, f"  CA certificate  {home.tls / 'ca.pem'}", ""]


def _key(home: Home, field: str, given: Sequence[str], *, keys: bool) -> str:
    if field in given:
        return f"as set in BUCKY_{field.upper()}"
    return home.secret(field) if keys else f"in {home.secrets / secret_file_name(field)}"


def _listening(settings: Mapping[str, Any], port: int) -> str:
    listeners = settings.get("edge_listeners") or [{"port": port}]
    return ", ".join(
        f"{one.get('aet', 'BUCKY')}@{one.get('host', '127.0.0.1')}:{one.get('port', port)}" for one in listeners
    )


def _end_on_signals() -> Callable[[], bool]:
    ending: list[int] = []

    def note(number: int, _frame: object) -> None:
        ending.append(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return lambda: bool(ending)
