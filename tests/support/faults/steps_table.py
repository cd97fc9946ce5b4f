"""The boundaries as a table that people read."""

from collections.abc import Iterable

from rich import box
from rich.table import Table

from tests.support.faults.stepped_stack import INSTANCES
from tests.support.faults.steps import IN_ORDER, Boundary

NAME = "steps"


def row(at: Boundary, times_sent: int | None) -> list[str]:
    """Return a boundary's line, led by its place on the way of an instance."""
    sent = "" if times_sent is None else str(times_sent)
    return [f"{IN_ORDER[at]:03}", at.step, at.words, at.kind, at.victim, sent]


def table(rows: Iterable[list[str]]) -> Table:
    """Return the boundaries, one line each, in the order an instance comes by them."""
    shown = Table(
        title="kill -9 at each boundary",
        caption=f"{INSTANCES} instances were on their way each time; all arrived, were noted once, and are whole",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("step", "how far it was", "on the wire", "killed"):
        shown.add_column(heading)
    shown.add_column("sent to the destination", justify="right")
    for _, *cells in sorted(rows):
        shown.add_row(*cells)
    return shown
