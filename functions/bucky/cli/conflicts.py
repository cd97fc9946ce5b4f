"""The commands for conflicts: list them, show how the bytes differ, decide, and undo."""

from typing import Annotated, Any

import typer

from bucky.cli.access import AsJson, Ca, Home, Key, Url, api
from bucky.cli.output import print_json, print_rows

COLUMNS = {
    "sha256": "SHA-256",
    "state": "State",
    "received_at": "Received",
    "calling_aet": "From",
    "study_instance_uid": "Study",
    "series_instance_uid": "Series",
    "sop_instance_uid": "Instance",
}
DECIDED = {
    "sha256": "SHA-256",
    "verdict": "Verdict",
    "decided_at": "Decided",
    "author": "By",
    "note": "Note",
    "sop_instance_uid": "Instance",
}
SHORT = ("sha256",)
DIFFERENT = {"name": "Attribute", "path": "Path", "first": "Current", "second": "These bytes"}
SENT = {"destination": "Destination", "state": "State", "sha256": "SHA-256", "reason": "Reason"}

Bytes = Annotated[
    str, typer.Argument(metavar="SHA256", help="Of the later bytes, or how it begins, as `list` shows it.")
]
Note = Annotated[str, typer.Option(help="Why; shown on the timeline.")]

conflicts = typer.Typer(
    no_args_is_help=True, help="Other bytes that came for an instance that was there: compare them, and decide."
)


@conflicts.command("list")
def list_(
    decided: Annotated[bool, typer.Option("--decided", help="What was decided, instead of what is open.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Those that were decided about, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=999, help="Most rows to show.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="Rows to skip.")] = 0,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List the bytes that await a decision."""
    with api(home, url, api_key, ca) as client:
        state = None if decided else "all" if everything else "open"
        path = "/api/conflicts/decisions" if decided else "/api/conflicts"
        page = client.get(path, {"limit": limit, "offset": offset, "state": state})
    if as_json:
        print_json(page)
        return
    none = "Nothing was decided." if decided else "No conflicts." if everything else "No conflicts await a decision."
    print_rows(page["items"], DECIDED if decided else COLUMNS, none, short=SHORT)
    if page["next"] is not None:
        typer.echo(f"There are more: --offset {page['next']}", err=True)


@conflicts.command()
def show(
    sha256: Bytes,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Show how bytes differ from the current ones, what was decided, and where either was sent."""
    with api(home, url, api_key, ca) as client:
        found = client.get(f"/api/conflicts/{sha256}")
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['state']}: {found['instance']['sha256']}")
    if found["differences"] is not None:
        _show_differences(found["differences"])
    if found["decisions"]:
        print_rows(found["decisions"], DECIDED, "", short=SHORT)
    print_rows(found["deliveries"], SENT, "Neither was sent anywhere.", short=SHORT)


def _show_differences(found: dict[str, Any]) -> None:
    first, second = found["transfer_syntaxes"]
    typer.echo("transfer syntax: " + (f"{first}, now {second}" if first != second else first))
    typer.echo(f"pixels: {found['pixels']}" + (f" ({found['problem']})" if found["problem"] else ""))
    print_rows(found["attributes"], DIFFERENT, "header: the same")


def _decide(verb: str, done: str) -> Any:
    def command(
        sha256: Bytes,
        note: Note = "",
        home: Home = None,
        url: Url = None,
        api_key: Key = None,
        ca: Ca = None,
        as_json: AsJson = False,
    ) -> None:
        with api(home, url, api_key, ca) as client:
            decision = client.post(f"/api/conflicts/{sha256}/{verb}", {"note": note})
        if as_json:
            print_json(decision)
        else:
            typer.echo(f"{done}; current is {decision['current_sha256']}")
            for name in decision["not_sent_to"]:
                typer.echo(f"not sent again to {name}: there is no such destination any more", err=True)

    return command


conflicts.command("accept", help="Make these bytes current, and send them where the rules say.")(
    _decide("accept", "accepted")
)
conflicts.command("reject", help="Keep the first bytes; these stay in the bucket, aside.")(
    _decide("reject", "rejected")
)
conflicts.command("undo", help="Undo the last decision about these bytes: they are open again.")(
    _decide("undo", "undone")
)
