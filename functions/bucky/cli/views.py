"""The commands that show what Bucky holds and how it is; they ask the admin API."""

from typing import Annotated, Any

import typer

from bucky.cli.access import AsJson, Ca, Home, Key, Url, api
from bucky.cli.output import print_json, print_rows

Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="Most rows to show.")]

STUDY_COLUMNS = {
    "study_instance_uid": "Study",
    "patient_id": "Patient ID",
    "patient_name": "Patient",
    "patient_count": "Patients",
    "study_date": "Date",
    "modalities": "Modalities",
    "study_description": "Description",
    "series_count": "Series",
    "instance_count": "Instances",
    "conflict_count": "Conflicts",
    "damaged_count": "Damaged",
}
INSTANCE_COLUMNS = {
    "received_at": "Received",
    "calling_aet": "From",
    "study_instance_uid": "Study",
    "series_instance_uid": "Series",
    "sop_instance_uid": "Instance",
    "header_error": "What is wrong",
    "sha256": "SHA-256",
}
DELIVERY_COLUMNS = {
    "delivery_id": "Delivery",
    "state": "State",
    "destination": "Destination",
    "rule": "Rule",
    "rule_version": "Version",
    "priority": "Priority",
    "attempts": "Attempts",
    "reason": "Reason",
    "commitment": "Commitment",
    "sop_instance_uid": "Instance",
    "updated_at": "Changed",
}
ATTENTION_COLUMNS = {
    "cause": "Needs attention",
    "since": "Since",
    "count": "Count",
    "effect": "What it means",
    "command": "What to do",
}
NEEDS_ATTENTION = 2
QUEUE_COLUMNS = {
    "function": "Function",
    "subject": "Subject",
    "waiting": "Waiting",
    "in_hand": "In hand",
    "state": "State",
    "why": "Why",
    "until": "Until",
}
QUEUE_STATES = {
    "held": "what it leads to is away, closed or busy, as Why says; nothing is lost, and it is tried again",
    "down": "the function itself does not answer: `faas-cli logs FUNCTION`",
    "invalid": "the annotations of the function are wrong, as Why says",
}


def status(
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 2 when anything needs attention.")] = False,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Show how every part is, how much there is, and what needs attention; exit code 1 when a part is down."""
    with api(home, url, api_key, ca) as client:
        health = client.health()
        attention = client.get("/api/attention")
        index_is_up = health["parts"]["index"]["status"] == "up"
        summary = client.get("/api/summary") if index_is_up else None
    if as_json:
        print_json({**health, "attention": attention, "summary": summary})
    else:
        parts = ({"part": name, **part} for name, part in health["parts"].items())
        print_rows(parts, {"part": "Part", "status": "Status", "milliseconds": "ms", "reason": "Reason"}, "no parts")
        for one in health["parts"].get("edge", {}).get("detail", {}).get("listeners", ()):
            typer.echo(f"DICOM is received as {one['aet']} on port {one['port']}", err=True)
        if summary is not None:
            held = {"part": "held", **summary["held"]}
            print_rows([held], {name: name.replace("_", " ").capitalize() for name in summary["held"]}, "")
            _show_where(summary["held"])
            columns = {"destination": "Destination", "state": "State", "count": "Deliveries"}
            print_rows(summary["deliveries"], columns, "No deliveries yet.")
        print_rows(attention, ATTENTION_COLUMNS, "Nothing needs attention.")
    if strict and attention:
        raise typer.Exit(NEEDS_ATTENTION)
    if health["status"] != "up":
        raise typer.Exit(1)


def _show_where(held: dict[str, Any]) -> None:
    """Say which command lists what is out of the ordinary."""
    for name, command in (("conflicts", "bucky conflicts list --all"), ("damaged", "bucky instances --damaged")):
        if held[name]:
            typer.echo(f"{name}: {held[name]}, see `{command}`", err=True)


def studies(
    patient_id: Annotated[str | None, typer.Option(help="Patient ID.")] = None,
    patient_name: Annotated[str | None, typer.Option(help="Patient's name; * and ? match any characters.")] = None,
    accession_number: Annotated[str | None, typer.Option(help="Accession number.")] = None,
    modality: Annotated[str | None, typer.Option(help="Modality, such as CT.")] = None,
    study_date_from: Annotated[str | None, typer.Option("--from", help="First study date, YYYYMMDD.")] = None,
    study_date_to: Annotated[str | None, typer.Option("--to", help="Last study date, YYYYMMDD.")] = None,
    limit: Limit = 50,
    offset: Annotated[int, typer.Option(min=0, help="Rows to skip.")] = 0,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List studies, the latest first."""
    with api(home, url, api_key, ca) as client:
        page = client.get(
            "/api/studies",
            {
                "patient_id": patient_id,
                "patient_name": patient_name,
                "accession_number": accession_number,
                "modality": modality,
                "study_date_from": study_date_from,
                "study_date_to": study_date_to,
                "limit": limit,
                "offset": offset,
            },
        )
    if as_json:
        print_json(page)
        return
    print_rows([_with_patients(item) for item in page["items"]], STUDY_COLUMNS, "No studies.")
    if page["next"] is not None:
        typer.echo(f"There are more: --offset {page['next']}", err=True)


def _with_patients(study: dict[str, Any]) -> dict[str, Any]:
    """Return a study with all IDs and names that its instances give its patient, or patients."""
    said = {
        name: dict.fromkeys(one[name] or "-" for one in study["patients"]) for name in ("patient_id", "patient_name")
    }
    several = {name: " / ".join(values) for name, values in said.items() if len(values) > 1}
    if study["patient_count"] < 2 and study["several_names"]:
        several["patient_count"] = f"{study['patient_count']}, several names"
    return {**study, **several}


def instances(
    damaged: Annotated[bool, typer.Option("--damaged", help="Only those whose data set is not whole.")] = False,
    study: Annotated[str | None, typer.Option(help="Only those of this Study Instance UID.")] = None,
    limit: Limit = 50,
    offset: Annotated[int, typer.Option(min=0, help="Rows to skip.")] = 0,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List instances, the latest first, and what is wrong with those that came damaged."""
    with api(home, url, api_key, ca) as client:
        page = client.get(
            "/api/instances", {"damaged": str(damaged).lower(), "study": study, "limit": limit, "offset": offset}
        )
    if as_json:
        print_json(page)
        return
    print_rows(page["items"], INSTANCE_COLUMNS, "No damaged instances." if damaged else "No instances.")
    if page["next"] is not None:
        typer.echo(f"There are more: --offset {page['next']}", err=True)


def deliveries(
    state: Annotated[
        str | None, typer.Option(help="requested, retrying, uncommitted, delivered, failed, dead_letter or dismissed.")
    ] = None,
    destination: Annotated[str | None, typer.Option(help="Name of a destination.")] = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    limit: Limit = 50,
    after: Annotated[str | None, typer.Option(help="Go on from here: the `next` of the page before.")] = None,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List deliveries with their state and reason, the latest first."""
    with api(home, url, api_key, ca) as client:
        page = client.get(
            "/api/deliveries",
            {"state": state, "destination": destination, "study": study, "limit": limit, "after": after},
        )
    if as_json:
        print_json(page)
        return
    print_rows([_with_unit(item) for item in page["items"]], DELIVERY_COLUMNS, "No deliveries.")
    if page["next"] is not None:
        typer.echo(f"There are more: --after {page['next']}", err=True)


def _with_unit(delivery: dict[str, Any]) -> dict[str, Any]:
    """Return a delivery with what a function gets at once in place of the first instance of it."""
    if delivery["unit"] not in ("series", "study"):
        return delivery
    count = delivery["unit_instances"]
    return {**delivery, "sop_instance_uid": f"a {delivery['unit']} of {count} instance{'s' if count > 1 else ''}"}


def queues(home: Home = None, url: Url = None, api_key: Key = None, ca: Ca = None, as_json: AsJson = False) -> None:
    """Show what waits for each function and destination, why, and until when."""
    with api(home, url, api_key, ca) as client:
        found = client.get("/api/queues")
    if as_json:
        print_json(found)
    else:
        print_rows(found, QUEUE_COLUMNS, "No queues: no function is deployed yet.")
        for state in sorted({queue["state"] for queue in found} & QUEUE_STATES.keys()):
            typer.echo(f"{state}: {QUEUE_STATES[state]}", err=True)
