"""`bucky timeline`: what happened to a study or an instance."""

from datetime import datetime
from typing import Annotated, Any

import typer

from bucky.cli.access import AsJson, Ca, Home, Key, Url, api
from bucky.cli.output import print_json, print_rows

COLUMNS = {
    "at": "When",
    "step": "Step",
    "instances": "Instances",
    "times": "Times",
    "destination": "Destination",
    "rule": "Rule",
    "rule_version": "Version",
    "revision": "Revision",
    "detail": "Detail",
    "sop_instance_uid": "Instance",
    "trace_id": "Trace",
}
# Where a terminal is too narrow for all; a pipe and --json have everything.
LEFT_OUT_FIRST = ("trace_id", "sop_instance_uid", "revision", "rule_version", "rule")


def timeline(
    of: Annotated[str, typer.Argument(metavar="STUDY|INSTANCE", help="A UID, or an instance's SHA-256.")],
    each: Annotated[bool, typer.Option("--each", help="Every instance of a study by itself.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most rows to show.")] = 500,
    offset: Annotated[int, typer.Option(min=0, help="Rows to skip.")] = 0,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened to a study or an instance, from its association to the last delivery."""
    with api(home, url, api_key, ca) as client:
        page = client.get(f"/api/timeline/{of}", {"each": str(each).lower(), "limit": limit, "offset": offset})
    if as_json:
        print_json(page)
        return
    steps = [_shown(step) for step in page["items"]]
    print_rows(steps, COLUMNS, "Nothing happened.", optional=LEFT_OUT_FIRST, prose=("detail",))
    if page["next"] is not None:
        typer.echo(f"There are more: --offset {page['next']}", err=True)


def _shown(step: dict[str, Any]) -> dict[str, Any]:
    """Return a step as a person reads it: local time, and how long it took where it took long."""
    at, until = datetime.fromisoformat(step["at"]), datetime.fromisoformat(step["until"])
    seconds = (until - at).total_seconds()
    shown = at.astimezone().replace(tzinfo=None).isoformat(" ", "milliseconds")
    return {**step, "at": f"{shown} +{seconds:.1f} s" if seconds >= 0.1 else shown}
