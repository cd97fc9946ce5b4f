"""The commands for destinations and rules."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from bucky.cli.access import AsJson, Ca, Home, Key, Url, api
from bucky.cli.api_client import ApiFailed
from bucky.cli.output import print_json, print_rows
from bucky.routing.destinations import Destination
from bucky.routing.document import InvalidRouting, Routing, json_schema
from bucky.text.wording import ended

DESTINATION_COLUMNS = {
    "name": "Name",
    "type": "Type",
    "address": "Address",
    "enabled": "Enabled",
}
Yes = Annotated[bool, typer.Option("--yes", help="Do it, also when deliveries end by it.")]
MADE_FROM = re.compile(r"\A# version (\d{1,9})\s*$", re.MULTILINE)

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
    yes: Yes = False,
    home: Home = None,
    url: Url = None,
    api_key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Replace all destinations and rules by those of a file; nothing is written when they are the same.

    What changes is shown first. When something is not sent any more, or deliveries that wait would become dead
    letters, it asks; --yes answers for you, and without a terminal nothing is done.

    A file whose first line is `# version N`, as `show` writes it, is refused when the routing has changed since;
    after a change that line is brought up to date.
    """
    text, wanted = read_routing(file)
    warnings: list[str] = []
    made_from = MADE_FROM.match(text)
    with api(home, url, api_key, ca) as client:
        current = client.get("/api/routing")
        version, changed = int(current["version"]), Routing.model_validate(current["document"]) != wanted
        if changed:
            made = int(made_from[1]) if made_from else version
            if made != version:
                raise ApiFailed(
                    f"Nothing was changed: the routing has changed since you read it. {file} was made from version "
                    f"{made}, and version {version} is in force: change what `bucky routing show` prints now."
                )
            body = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
            confirm_effect(client.post("/api/routing/effect", body), yes=yes)
            written = client.put("/api/routing", body, made, confirm=True)
            version, warnings = int(written["version"]), written["warnings"]
    if made_from and int(made_from[1]) != version:
        file.write_text(MADE_FROM.sub(f"# version {version}", text, count=1), encoding="utf-8")
    for warning in warnings:
        typer.secho(f"but {warning}", err=True, fg="yellow")
    if as_json:
        print_json({"version": version, "changed": changed, "warnings": warnings})
    else:
        typer.echo(f"{'applied' if changed else 'unchanged'}: version {version}")


def confirm_effect(effect: Mapping[str, Any], *, yes: bool) -> None:
    """Show on stderr what a change does, and ask when it ends something; raise `ApiFailed` when nobody says yes.

    Where there is nobody to ask, only why nothing was changed is said.
    """
    ends = [f"{name} gets nothing new any more" for name in effect["stops"]]
    ends += [ended(name, count) for name, count in effect["given_up"].items()]
    if effect["leads_nowhere"]:
        ends.append("new images are kept, and go nowhere")
    if ends and not yes and not sys.stdin.isatty():
        raise ApiFailed(f"Nothing was changed, for {'; '.join(ends)}. If that is meant, say --yes.")
    for one in effect["changes"]:
        typer.echo(f"{one['how']}: {one['what']} {one['name']}", err=True)
    for end in ends:
        typer.secho(end, err=True, fg="yellow")
    if not ends or yes:
        return
    if not typer.confirm("Is that meant?", err=True):
        raise ApiFailed("Nothing was changed.")


@routing.command()
def schema() -> None:
    """Print the JSON Schema of routing files, for editors and other programs."""
    print_json(json_schema())


def read_routing(file: Path) -> tuple[str, Routing]:
    """Return a routing file's text and what it says; raise `InvalidRouting` with the file and the place."""
    try:
        text = file.read_text(encoding="utf-8")
        return text, Routing.from_yaml(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRouting(f"{file} cannot be read: {type(error).__name__}.") from None
    except InvalidRouting as error:
        raise InvalidRouting(f"{file}: {error}") from None
