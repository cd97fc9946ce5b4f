"""What commands print: everything in a pipe, and what can be read on a terminal of 80 columns."""

import io

from rich.console import Console

from bucky.cli.output import print_rows

UID = "1.2.826.0.1.3680043.8.498.45787841905188114249328541563324104"
COLUMNS = {
    "when": "When",
    "step": "Step",
    "revision": "Revision",
    "detail": "Detail",
    "uid": "Instance",
    "trace": "Trace",
}
ROW = {
    "when": "2026-11-20 18:02:11.204",
    "step": "received",
    "detail": "CT1 to BUCKY from 10.1.2.3, association 7f3c5f2a9d4e4f1a8f0a6b6c7d8e9f00",
    "uid": UID,
    "trace": "ab" * 16,
}


def printed(width: int | None, **how: tuple[str, ...]) -> list[str]:
    """Return the lines that a terminal of this width, or a pipe, gets."""
    target = io.StringIO()
    console = Console(file=target, width=width, force_terminal=width is not None, color_system=None)
    print_rows([ROW], COLUMNS, "nothing", console, **how)
    return target.getvalue().splitlines()


def test_a_pipe_gets_every_column_whole() -> None:
    """Scripts count on columns that are always there, and on values that are not cut."""
    heading, row = printed(None, optional=("trace", "uid"), short=("trace",))
    assert heading.split("\t") == list(COLUMNS)
    assert dict(zip(COLUMNS, row.split("\t"), strict=True)) == {**ROW, "revision": ""}


def test_a_narrow_terminal_gets_a_table_without_what_is_optional() -> None:
    """A timeline of 80 columns is read by its steps; folded to a few letters each, nobody reads it."""
    lines = printed(80, optional=("trace", "uid"), prose=("detail",))
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["When", "Step", "Detail"]
    assert "received" in "\n".join(lines)


def test_what_fits_no_table_is_a_line_for_each_value() -> None:
    """UIDs are compared and copied: one that is broken over lines is neither."""
    assert ["Instance", UID] in [line.split() for line in printed(80)]


def test_a_wide_terminal_gets_a_table_without_empty_columns() -> None:
    """A column that says nothing takes the room of those that do; a digest is told apart by its beginning."""
    heading, row = printed(250, short=("trace",))
    assert heading.split() == ["When", "Step", "Detail", "Instance", "Trace"]
    assert (UID in row, row.split()[-1]) == (True, "ab" * 6)
