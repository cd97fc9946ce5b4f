"""The `bucky` command line.

What other packages offer hangs itself here through the entry-point group `bucky.commands`.
"""

import json
import os
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from bucky.cli.conflicts import conflicts
from bucky.cli.dead_letters import dead_letters
from bucky.cli.routing import destinations, routing
from bucky.cli.rules import rules
from bucky.cli.send import send_command
from bucky.cli.settings_page import markdown_table
from bucky.cli.timeline import timeline
from bucky.cli.views import deliveries, instances, queues, status, studies
from bucky.errors import BuckyError
from bucky.log import configure
from bucky.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Receives DICOM where it is made, keeps every instance, and routes it by rule.",
)


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the settings as they are read from the environment; secrets are not shown."""
    if markdown:
        typer.echo(markdown_table(), nl=False)
        return
    values = Settings.load(os.environ).model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        typer.echo(f"BUCKY_{name.upper():<32} {value}")


app.command(name="send")(send_command)
for command in (status, studies, instances, timeline, deliveries, queues, destinations):
    app.command()(command)
app.add_typer(conflicts, name="conflicts")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(routing, name="routing")
app.add_typer(rules, name="rules")


def main() -> None:
    """Run the command line; an error Bucky foresaw is one sentence and exit code 1."""
    configure("warning")
    for entry_point in entry_points(group="bucky.commands"):
        entry_point.load()(app)
    try:
        app()
    except BuckyError as error:
        typer.secho(f"bucky: {error}", err=True, fg="red")
        sys.exit(1)
