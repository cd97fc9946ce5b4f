"""The commands for dead letters: list them, look at one, send them again."""

from typing import Annotated, Any

import typer

from bucky.api_client import ApiFailed
from bucky.cli.access import AsJson, Ca, Home, Key, Url, api
from bucky.cli.output import print_json, print_rows

COLUMNS = {
    "sequence": "No.",
    "recorded_at": "Since",
    "function": "Function",
    "destination": "Destination",
    "attempts": "Attempts",
    "reason": "Reason",
    "sop_instance_uid": "Instance",
}

Function = Annotated[str, typer.Option(help="Only those of this function.")]
Destination = Annotated[str, typer.Option(help="Only those for this destination.")]
Reason = Annotated[str, typer.Option(help="Only those whose reason contains this.")]

dead_letters = typer.Typer(no_args_is_help=True, help="What could not be processed, and sending it again.")


@dead_letters.command("list")
def list_(
    function: Function = "",
    destination: Destination = "",
    reason: Reason = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    before: Annotated[int | None, typer.Option(help="Older than this number.")] = None,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first."""
    wanted: dict[str, str | int | None] = {"limit": limit, "before": before}
    wanted |= {"function": function, "destination": destination, "reason": reason}
    with api(home, url, api_key, ca) as client:
        page = client.get("/api/dead-letters", wanted)
    if as_json:
        print_json(page)
        return
    print_rows(page["items"], COLUMNS, "No dead letters.")
    if page["next"] is not None:
        typer.echo(f"There may be more: --before {page['next']}", err=True)


@dead_letters.command()
def show(
    sequence: Annotated[int, typer.Argument(help="Its number.")],
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
) -> None:
    """Print one dead letter whole, as JSON."""
    with api(home, url, api_key, ca) as client:
        print_json(client.get(f"/api/dead-letters/{sequence}"))


@dead_letters.command()
def redrive(
    sequences: Annotated[list[int] | None, typer.Argument(help="Their numbers.")] = None,
    function: Function = "",
    destination: Destination = "",
    reason: Reason = "",
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again: those named, those that match, or --all; exit code 1 when one could not be."""
    order: dict[str, Any] = {"function": function, "destination": destination, "reason": reason, "all": everything}
    order["sequences"] = sequences or []
    if not any(order.values()):
        raise ApiFailed("Say which dead letters to send again: their numbers, a filter, or --all.")
    redriven: list[str] = []
    failed: dict[str, str] = {}
    with api(home, url, api_key, ca) as client:
        while True:
            answer = client.post("/api/dead-letters/redrive", order)
            redriven += answer["redriven"]
            failed |= answer["failed"]
            if answer["next"] is None:
                break
            order["before"] = answer["next"]
    if as_json:
        print_json({"redriven": redriven, "failed": failed})
    else:
        typer.echo(f"sent again: {len(redriven)}")
        for number, why in failed.items():
            typer.echo(f"not sent again: {number}: {why}", err=True)
    if failed:
        raise typer.Exit(1)
