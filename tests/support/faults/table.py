"""The matrix as a table that people read."""

import re
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table

from tests.support.faults.matrix import Row

WIDTH = 170


def table(rows: Iterable[Row]) -> str:
    """Return what came of each case, one line each."""
    rows = list(rows)
    alone = rows[0].alone if rows else 0.0
    shown = Table(
        title="What a destination's fault led to",
        caption=f"pace: the time in which a healthy destination got the same instances, beside the fault by alone "
        f"({alone:.2f} s)\nright after: the time from the destination's being well again to the last arrival",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("the destination", "node"):
        shown.add_column(heading, no_wrap=True)
    shown.add_column("by", max_width=22)
    for heading in ("delivered", "dead letters", "it holds"):
        shown.add_column(heading, justify="right", max_width=9)
    shown.add_column("it answered", max_width=10)
    shown.add_column("pace", justify="right")
    shown.add_column("right after", max_width=7)
    shown.add_column("the reason shown")
    for row in rows:
        answers = "\n".join(f"{count}x 0x{code}" for code, count in sorted(row.answers.items()))
        shown.add_row(
            *(str(row.case.fault), row.case.node.name, row.means),
            *(str(row.delivered), str(row.dead), str(row.held), answers),
            f"{row.beside / row.alone:.1f}",
            "" if row.right_after is None else f"{max(0.0, row.right_after):.1f} s",
            re.sub(r"^NODE@127\.0\.0\.1:\d+ ", "… ", row.reason),
        )
    console = Console(width=WIDTH, no_color=True)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()
