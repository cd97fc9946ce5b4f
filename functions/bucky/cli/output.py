"""What the commands print: JSON, a table on a terminal, or tab-separated lines in a pipe."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {
    "up": "green",
    "good": "green",
    "note": "yellow",
    "bad": "bold red",
    "down": "bold red",
    "goes": "green",
    "held": "yellow",
    "invalid": "bold red",
    "delivered": "green",
    "requested": "cyan",
    "retrying": "yellow",
    "failed": "red",
    "dead_letter": "bold red",
}


def print_json(value: Any) -> None:
    """Print JSON for machines."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], empty: str, console: Console | None = None
) -> None:
    """Print the columns (key: heading) of the rows, or the sentence for none; nothing is cut off."""
    listed = list(rows)
    console = console or Console()
    if not console.is_terminal:
        lines = ["\t".join(columns), *("\t".join(cell(row.get(key)) for key in columns) for row in listed)]
        console.file.writelines(f"{line}\n" for line in lines)
        return
    if not listed:
        typer.echo(empty)
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in listed:
        cells = [cell(row.get(key)) for key in columns]
        # As Text: what came in a DICOM header is never read as markup.
        table.add_row(*(Text(value, style=STYLES.get(value, "")) for value in cells))
    console.print(table)


def cell(value: Any) -> str:
    """Return a value as one line without control characters, which could command a terminal."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return "".join(character if character.isprintable() else " " for character in str(value))
