"""What the commands print: JSON, a table on a terminal, or tab-separated lines in a pipe."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

SHORT_DIGITS = 12
PROSE_WIDTH = 16
GAP = 2
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
    "open": "yellow",
}


def print_json(value: Any) -> None:
    """Print JSON for machines."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    empty: str,
    console: Console | None = None,
    *,
    optional: Sequence[str] = (),
    prose: Collection[str] = (),
    short: Collection[str] = (),
) -> None:
    """Print the columns (key: heading) of the rows, or the sentence for none.

    In a pipe every column is there, whole. A terminal gets a table of those that say something; where it is too narrow,
    without the `optional` ones, the first first; where it still is, a line for each value. `prose` may be broken
    anywhere; of `short` columns, digests, a terminal gets the first digits.
    """
    listed = [{key: cell(row.get(key)) for key in columns} for row in rows]
    console = console or Console()
    if not console.is_terminal:
        lines = ["\t".join(columns), *("\t".join(row.values()) for row in listed)]
        console.file.writelines(f"{line}\n" for line in lines)
        return
    if not listed:
        typer.echo(empty)
        return
    listed = [{key: text[:SHORT_DIGITS] if key in short else text for key, text in row.items()} for row in listed]
    said = {key: heading for key, heading in columns.items() if any(row[key] for row in listed)}
    shown = dict(said)
    for key in optional:
        if _least_width(listed, shown, prose) > console.width:
            shown.pop(key, None)
    if _least_width(listed, shown, prose) > console.width:
        _print_records(listed, said, console)
    else:
        _print_table(listed, shown, console)


def _least_width(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str], prose: Collection[str]) -> int:
    """Return the width at which a table of these columns breaks no word."""

    def least(key: str, heading: str) -> int:
        words = max(len(word) for text in (heading, *(row[key] for row in rows)) for word in text.split() or [""])
        return max(len(heading), min(words, PROSE_WIDTH)) if key in prose else words

    return sum(least(key, heading) + GAP for key, heading in columns.items()) - GAP


def _print_table(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str], console: Console) -> None:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_text(row[key]) for key in columns))
    console.print(table)


def _print_records(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str], console: Console) -> None:
    for number, row in enumerate(rows):
        if number:
            console.print()
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for key, heading in columns.items():
            if row[key]:
                table.add_row(heading, _text(row[key]))
        console.print(table)


def _text(value: str) -> Text:
    """Return a cell as text: what came in a DICOM header is never read as markup."""
    return Text(value, style=STYLES.get(value, ""))


def cell(value: Any) -> str:
    """Return a value as one line without control characters, which could command a terminal."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return "".join(character if character.isprintable() else " " for character in str(value))
