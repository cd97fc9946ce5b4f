"""The commands for dead letters: list them, look at one, send them again, dismiss them."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from bucky.cli.access import AsJson, Ca, Home, Key, Url, api
from bucky.cli.api_client import ApiClient, ApiFailed
from bucky.cli.moments import moment
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

GROUP_COLUMNS = {
    "count": "Count",
    "function": "Function",
    "destination": "Destination",
    "reason": "Reason",
    "first_at": "First",
    "last_at": "Last",
}
PAGE = 500

Function = Annotated[str, typer.Option(help="Only those of this function.")]
Destination = Annotated[str, typer.Option(help="Only those for this destination.")]
Reason = Annotated[str, typer.Option(help="Only those whose reason contains this.")]
Study = Annotated[str, typer.Option(help="Only those of this Study Instance UID.")]
Since = Annotated[str | None, typer.Option(help="Only those since: 2h or 3d ago, or a date (and time).")]
Until = Annotated[str | None, typer.Option(help="Only those before: 2h or 3d ago, or a date (and time).")]

dead_letters = typer.Typer(no_args_is_help=True, help="What could not be processed: send it again, or dismiss it.")


@dead_letters.command("list")
def list_(
    function: Function = "",
    destination: Destination = "",
    reason: Reason = "",
    study: Study = "",
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most rows to show.")] = 50,
    before: Annotated[int | None, typer.Option(help="Older than this number.")] = None,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first."""
    wanted = _wanted(function, destination, reason, study, since, until)
    items: list[dict[str, Any]] = []
    with api(home, url, api_key, ca) as client:
        while True:
            # An old page may be short: the API reads a fixed number at a time, whether they match or not.
            page = client.get("/api/dead-letters", {**wanted, "limit": min(limit - len(items), PAGE), "before": before})
            items += page["items"]
            before = page["next"]
            if before is None or len(items) >= limit:
                break
    if as_json:
        print_json({"items": items, "next": before})
        return
    print_rows(items, COLUMNS, "No dead letters.")
    if before is not None:
        typer.echo(f"There may be more: --before {before}", err=True)


@dead_letters.command()
def summary(
    function: Function = "",
    destination: Destination = "",
    reason: Reason = "",
    study: Study = "",
    since: Since = None,
    until: Until = None,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Count dead letters by function, destination and reason, the most frequent first."""
    wanted = _wanted(function, destination, reason, study, since, until)
    with api(home, url, api_key, ca) as client:
        found = client.get("/api/dead-letters/summary", wanted)
    if as_json:
        print_json(found)
        return
    print_rows(found["groups"], GROUP_COLUMNS, "No dead letters.")
    if not found["complete"]:
        typer.echo("There are more than are counted here: narrow it down with a filter.", err=True)


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
    study: Study = "",
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again: those named, those that match, or --all; exit code 1 when one could not be."""
    order: dict[str, Any] = _wanted(function, destination, reason, study, since, until)
    order |= {"sequences": sequences or [], "all": everything}
    if not any(order.values()):
        raise ApiFailed("Say which dead letters to send again: their numbers, a filter, or --all.")
    redriven: list[str] = []
    failed: dict[str, str] = {}
    with api(home, url, api_key, ca) as client:
        try:
            for answer in _in_parts(client, "redrive", order):
                redriven += answer["redriven"]
                failed |= answer["failed"]
        except ApiFailed:
            typer.echo(f"sent again before this: {len(redriven)}; the others are as they were", err=True)
            raise
    if as_json:
        print_json({"redriven": redriven, "failed": failed})
    else:
        typer.echo(f"sent again: {len(redriven)}")
        for number, why in failed.items():
            typer.echo(f"not sent again: {number}: {why}", err=True)
    if failed:
        raise typer.Exit(1)


@dead_letters.command()
def dismiss(
    note: Annotated[str, typer.Option(help="Why; shown on the timeline.")],
    sequences: Annotated[list[int] | None, typer.Argument(help="Their numbers.")] = None,
    function: Function = "",
    destination: Destination = "",
    reason: Reason = "",
    study: Study = "",
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter that may be dismissed.")] = False,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Say of dead letters that they are not to be sent any more; exit code 1 when one could not be dismissed.

    Only those whose destination is not in the routing any more, or in place of whose bytes others were accepted.
    """
    order: dict[str, Any] = _wanted(function, destination, reason, study, since, until)
    order |= {"sequences": sequences or [], "all": everything}
    if not any(order.values()):
        raise ApiFailed("Say which dead letters to dismiss: their numbers, a filter, or --all.")
    dismissed: list[str] = []
    failed: dict[str, str] = {}
    with api(home, url, api_key, ca) as client:
        for answer in _in_parts(client, "dismiss", {**order, "note": note}):
            dismissed += answer["dismissed"]
            failed |= answer["failed"]
    if as_json:
        print_json({"dismissed": dismissed, "failed": failed})
    else:
        typer.echo(f"dismissed: {len(dismissed)}")
        for number, why in failed.items():
            typer.echo(f"not dismissed: {number}: {why}", err=True)
    if failed:
        raise typer.Exit(1)


def _in_parts(client: ApiClient, verb: str, order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give an order in parts the API takes, and yield each answer."""
    numbers = order["sequences"]
    for start in range(0, max(1, len(numbers)), PAGE):
        part = {**order, "sequences": numbers[start : start + PAGE]}
        while True:
            answer = client.post(f"/api/dead-letters/{verb}", part)
            yield answer
            if answer["next"] is None:
                break
            part["before"] = answer["next"]


def _wanted(
    function: str, destination: str, reason: str, study: str, since: str | None, until: str | None
) -> dict[str, str | None]:
    filters: dict[str, str | None] = {"function": function, "destination": destination, "reason": reason}
    return filters | {"study": study, "since": moment(since), "until": moment(until)}
