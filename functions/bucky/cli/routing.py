"""The commands for destinations and rules."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter

from bucky.cli.access import AsJson, Ca, Home, Key, Url, api
from bucky.cli.output import print_json, print_rows
from bucky.destinations import Destination
from bucky.routing import InvalidRouting, Routing

DESTINATION_COLUMNS = {
    "name": "Name",
    "type": "Type",
    "address": "Address",
    "enabled": "Enabled",
}
RULE_COLUMNS = {"name": "Name", "enabled": "Enabled", "when": "When", "destinations": "Destinations"}

_DESTINATION: TypeAdapter[Destination] = TypeAdapter(Destination)

routing = typer.Typer(no_args_is_help=True, help="Show or replace the destinations and rules.")


def destinations(
    home: Home = None, url: Url = None, api_key: Key = None, ca: Ca = None, as_json: AsJson = False
) -> None:
    """List the destinations."""
    with api(home, url, api_key, ca) as client:
        found = client.get("/api/destinations")
    if as_json:
        print_json(found)
    else:
        rows = [{**one, "address": _DESTINATION.validate_python(one).address} for one in found]
        print_rows(rows, DESTINATION_COLUMNS, "No destinations; `bucky routing apply FILE` adds some.")


def rules(home: Home = None, url: Url = None, api_key: Key = None, ca: Ca = None, as_json: AsJson = False) -> None:
    """List the rules."""
    with api(home, url, api_key, ca) as client:
        found = client.get("/api/rules")
    if as_json:
        print_json(found)
    else:
        print_rows(found, RULE_COLUMNS, "No rules; `bucky routing apply FILE` adds some.")


@routing.command()
def show(home: Home = None, url: Url = None, api_key: Key = None, ca: Ca = None, as_json: AsJson = False) -> None:
    """Print the routing in force as the YAML that `apply` takes."""
    with api(home, url, api_key, ca) as client:
        found = client.get("/api/routing")
    if as_json:
        print_json(found)
        return
    typer.echo(f"# version {found['version']}")
    typer.echo(Routing.model_validate(found["document"]).to_yaml(), nl=False)


@routing.command()
def apply(
    file: Annotated[Path, typer.Argument(help="YAML file with destinations and rules.")],
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Replace all destinations and rules by those of a file; nothing is written when they are the same."""
    try:
        wanted = Routing.from_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRouting(f"{file} cannot be read: {type(error).__name__}.") from None
    except InvalidRouting as error:
        raise InvalidRouting(f"{file}: {error}") from None
    with api(home, url, api_key, ca) as client:
        current = client.get("/api/routing")
        version, changed = int(current["version"]), Routing.model_validate(current["document"]) != wanted
        if changed:
            body = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
            version = int(client.put("/api/routing", body, version)["version"])
    if as_json:
        print_json({"version": version, "changed": changed})
    else:
        typer.echo(f"{'applied' if changed else 'unchanged'}: version {version}")
