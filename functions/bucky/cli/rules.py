"""The commands for rules: what they would do with a file, their versions, and going back to one."""

import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bucky.cli.access import AsJson, Ca, Home, Key, Url, api
from bucky.cli.local_file import LocalFile, as_studies, read_local_file
from bucky.cli.output import cell, print_json, print_rows
from bucky.cli.rehearsals import rehearse, replay
from bucky.cli.routing import Yes, confirm_effect, read_routing
from bucky.cli.send_files import files_in
from bucky.deciding.explain import explain, lines
from bucky.dicom.foreign_file import NotAnInstance
from bucky.errors import Permanent
from bucky.routing.crosswalk import Crosswalks
from bucky.routing.document import Routing
from bucky.routing.evaluation import Facts
from bucky.settings import Settings

RULE_COLUMNS = {
    "name": "Name",
    "enabled": "Enabled",
    "trigger": "Trigger",
    "priority": "Priority",
    "when": "When",
    "destinations": "Destinations",
}
VERSION_COLUMNS = {"version": "Version", "created_at": "Since", "author": "Author", "note": "Note", "rules": "Rules"}

rules = typer.Typer(help="List the rules; try them out, return to an earlier version, run them again.")
rules.command()(rehearse)
rules.command()(replay)


@rules.callback(invoke_without_command=True)
def list_rules(
    context: typer.Context,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List the rules in force, or do what the command says."""
    if context.invoked_subcommand is not None:
        return
    with api(home, url, api_key, ca) as client:
        found = client.get("/api/rules")
    if as_json:
        print_json(found)
    else:
        print_rows(found, RULE_COLUMNS, "No rules; `bucky routing apply FILE` adds some.")


@rules.command(name="test")
def explain_files(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders with them.", exists=True)],
    candidate: Annotated[
        Path | None, typer.Option("--rules", help="Routing file to try; default: what is in force.", exists=True)
    ] = None,
    calling_aet: Annotated[str, typer.Option(help="As if this AE title had sent them.")] = "",
    called_aet: Annotated[str, typer.Option(help="As if they had been sent to this AE title.")] = "",
    source_address: Annotated[str, typer.Option(help="As if they came from this address.")] = "",
    listener: Annotated[str, typer.Option(help="As if this listener had received them.")] = "",
    at: Annotated[datetime | None, typer.Option(help="As if they came at this time (UTC).")] = None,
    crosswalks: Annotated[Path | None, typer.Option(help="Folder of the crosswalks' files.")] = None,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Show what the rules do with files, condition by condition, and what they would change; nothing is sent.

    The files count as whole series and studies for rules that wait for those. Exit code 1: a file cannot be read.
    """
    if candidate is not None:
        routing = read_routing(candidate)[1]
    else:
        with api(home, url, api_key, ca) as client:
            routing = Routing.model_validate(client.get("/api/routing")["document"])
    received_at = at.replace(tzinfo=UTC) if at else datetime.now(UTC)
    association = Facts({}, calling_aet, called_aet, source_address, listener, received_at)
    read, failed = _read(paths, association)
    tables = Crosswalks(crosswalks or _crosswalk_folder(home))
    explained = [(one, explain(routing, one.facts, one.header, tables)) for one in as_studies(read)]
    tables.close()
    if as_json:
        print_json(
            {
                "files": [{"path": str(one.file.path), **asdict(explanation)} for one, explanation in explained],
                "failed": failed,
            }
        )
    else:
        for one, explanation in explained:
            typer.echo(cell(f"{one.file.path}"))
            for line in lines(explanation):
                typer.echo(f"  {_clean(line)}")
    for path, reason in failed.items():
        typer.echo(f"{path}: {reason}", err=True)
    if not read:
        typer.echo("no rule was tried: there is no DICOM instance among these", err=True)
    if failed or not read:
        raise typer.Exit(1)


@rules.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most rows to show.")] = 20,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of the routing, the latest first."""
    with api(home, url, api_key, ca) as client:
        found = client.get("/api/routing/versions", {"limit": limit})
    if as_json:
        print_json(found)
        return
    rows = [{**one, "rules": [rule["name"] for rule in one["document"]["rules"]]} for one in found]
    print_rows(rows, VERSION_COLUMNS, "No routing was ever saved.")


@rules.command()
def rollback(
    version: Annotated[int, typer.Argument(min=0, help="The version to return to; `history` lists them.")],
    yes: Yes = False,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Put an earlier version in force again, as a new version: nothing is lost by it."""
    with api(home, url, api_key, ca) as client:
        current = int(client.get("/api/routing")["version"])
        document = client.get(f"/api/routing/versions/{version}")["document"]
        confirm_effect(client.post("/api/routing/effect", document), yes=yes)
        made = int(client.post("/api/routing/rollback", {"version": version}, current, confirm=True)["version"])
    if as_json:
        print_json({"version": made, "as": version, "before": current})
    else:
        typer.echo(f"in force: version {made}, which is as version {version} was; before it was version {current}")


def _read(paths: list[Path], association: Facts) -> tuple[list[LocalFile], dict[str, str]]:
    read: list[LocalFile] = []
    failed: dict[str, str] = {}
    for path in files_in(paths):
        try:
            read.append(read_local_file(path, association))
        except NotAnInstance as error:
            if path in paths:
                failed[str(path)] = str(error)
        except Permanent as error:
            failed[str(path)] = str(error)
        except OSError as error:
            failed[str(path)] = f"it cannot be read ({type(error).__name__})"
    return read, failed


def _crosswalk_folder(home: Path | None) -> Path:
    return home / "crosswalks" if home else Settings.load(os.environ).crosswalk_dir


def _clean(line: str) -> str:
    """Return a line without what could command a terminal, its indentation kept."""
    return line[: len(line) - len(line.lstrip(" "))] + cell(line.lstrip(" "))
