"""The boundaries as a table that people read."""

from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from tests.support.faults.stepped_stack import INSTANCES, Killed
from tests.support.faults.steps import IN_ORDER, Boundary

WIDTH = 160


def table(killed: Iterable[Killed], times_sent: Mapping[Boundary, int]) -> str:
    """Return the boundaries, one line each, in the order an instance comes by them."""
    shown = Table(
        title="kill -9 at each boundary",
        caption=f"{INSTANCES} instances were on their way each time; all arrived, were noted once, and are whole",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("step", "how far it was", "on the wire", "killed"):
        shown.add_column(heading)
    shown.add_column("sent to the destination", justify="right")
    for one in sorted(killed, key=lambda one: IN_ORDER[one.boundary]):
        at = one.boundary
        shown.add_row(at.step, at.words, at.kind, at.victim, str(times_sent.get(at, "")))
    console = Console(width=WIDTH, no_color=True)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()
