"""The commands that run rules over what was received: as a rehearsal, or for real."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bucky.cli.access import AsJson, Ca, Home, Key, Url, api
from bucky.cli.api_client import ApiClient
from bucky.cli.output import print_json, print_rows
from bucky.cli.routing import read_routing

AT_A_TIME = 200
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
DIFFERENCE_COLUMNS = {
    "kind": "Would be",
    "destination": "Destination",
    "rule": "Rule",
    "before": "Before",
    "what": "In",
    "count": "Instances",
}
REPLAY_COLUMNS = {
    "destination": "Destination",
    "requested": "Requested",
    "already": "Already there or under way",
    "gone": "Destination gone",
}

Since = Annotated[datetime, typer.Option("--from", formats=TIMES, help="Received from this time on (UTC).")]
Until = Annotated[
    datetime | None, typer.Option("--to", formats=TIMES, help="Received before this time (UTC); default: now.")
]
Version = Annotated[int | None, typer.Option(min=0, help="A version of the routing; default: the one in force.")]


def rehearse(
    since: Since,
    until: Until = None,
    candidate: Annotated[
        Path | None, typer.Option("--rules", help="Routing file to try; default: --version.", exists=True)
    ] = None,
    version: Version = None,
    against: Annotated[
        int | None, typer.Option(min=0, help="Compare with this version, not with what was in fact requested.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Instances to name among those that differ.")] = 10,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Show what rules would have changed for what was received in a time; nothing is sent."""
    order = _received(since, until) | {"version": version, "against": against}
    if candidate is not None:
        order["routing"] = read_routing(candidate)[1].model_dump(mode="json", by_alias=True, exclude_none=True)
    seen, total, different = 0, 0, list[dict[str, Any]]()
    counts = Counter[tuple[Any, ...]]()
    with api(home, url, api_key, ca) as client:
        for page in _pages(client, "/api/rules/rehearse", order):
            seen += page["instances"]
            total += len(page["different"])
            different += page["different"] if as_json else page["different"][: max(0, show - len(different))]
            counts.update(_key(one) for instance in page["different"] for one in instance["differences"])
    if as_json:
        print_json({"instances": seen, "different": different})
        return
    typer.echo(f"{seen} instances were received; {total} would go elsewhere, or otherwise", err=True)
    rows = [dict(zip(DIFFERENCE_COLUMNS, (*key, count), strict=True)) for key, count in counts.most_common()]
    print_rows(rows, DIFFERENCE_COLUMNS, "Nothing would change.")
    for instance in different:
        typer.echo(f"{instance['sop_instance_uid']}  {instance['sha256']}", err=True)


def replay(
    since: Since,
    until: Until = None,
    version: Version = None,
    destination: Annotated[list[str] | None, typer.Option(help="Only this destination; may be repeated.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also send what has been sent.")] = False,
    trial: Annotated[bool, typer.Option("--trial", help="Only count: write nothing, send nothing.")] = False,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Run what was received in a time under a version of the rules; what has gone in the same form stays."""
    order = _received(since, until) | {"version": version, "destinations": destination or [], "again": again}
    order["trial"] = trial
    seen, counts = 0, {name: Counter[str]() for name in ("requested", "already", "gone")}
    with api(home, url, api_key, ca) as client:
        for page in _pages(client, "/api/rules/replay", order):
            seen += page["instances"]
            for name, counter in counts.items():
                counter.update(page[name])
    if as_json:
        print_json({"instances": seen, **{name: dict(counter) for name, counter in counts.items()}})
        return
    typer.echo(f"{seen} instances were received{'; nothing was sent, this is a trial' if trial else ''}", err=True)
    names = sorted({name for counter in counts.values() for name in counter})
    rows = [{"destination": name, **{kind: counter[name] for kind, counter in counts.items()}} for name in names]
    print_rows(rows, REPLAY_COLUMNS, "The rules ask for no delivery of them.")


def _key(difference: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what differences are counted by: the columns but for the last."""
    return (*(difference[name] for name in ("kind", "destination", "rule", "before")), ", ".join(difference["what"]))


def _received(since: datetime, until: datetime | None) -> dict[str, Any]:
    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    return {"since": since.replace(tzinfo=UTC).isoformat(), "until": end.isoformat(), "limit": AT_A_TIME}


def _pages(client: ApiClient, path: str, order: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield page after page, saying on a terminal how far it is."""
    after, seen = None, 0
    with Console(stderr=True).status("asking the rules") as status:
        while True:
            page = client.post(path, {**order, "after": after})
            seen += page["instances"]
            status.update(f"{seen} instances")
            yield page
            after = page["next"]
            if after is None:
                return
