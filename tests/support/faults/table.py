"""The matrix as a table that people read."""

import re
from collections.abc import Iterable

from rich import box
from rich.table import Table

from tests.support.faults.matrix import CASES, Row

NAME = "matrix"


def row(found: Row) -> list[str]:
    """Return what came of a case as a line, led by its place."""
    answers = "\n".join(f"{count}x 0x{code}" for code, count in sorted(found.answers.items()))
    return [
        *(f"{CASES.index(found.case):03}", str(found.case.fault), found.case.node.name, found.means),
        *(str(found.delivered), str(found.dead), str(found.held), answers),
        f"{found.beside / found.alone:.1f} ({found.alone:.2f} s)",
        "" if found.right_after is None else f"{max(0.0, found.right_after):.1f} s",
        re.sub(r"^NODE@127\.0\.0\.1:\d+ ", "… ", found.reason),
    ]


def table(rows: Iterable[list[str]]) -> Table:
    """Return what came of each case, one line each."""
    shown = Table(
        title="What a destination's fault led to",
        caption="pace: how long a healthy destination took for the same instances, beside the fault by alone (alone)"
        "\nright after: the time from the destination's being well again to the last arrival",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("the destination", "node"):
        shown.add_column(heading, no_wrap=True)
    shown.add_column("by", max_width=22)
    for heading in ("delivered", "dead letters", "it holds"):
        shown.add_column(heading, justify="right", max_width=9)
    shown.add_column("it answered", max_width=10)
    shown.add_column("pace", justify="right", no_wrap=True)
    shown.add_column("right after", max_width=7)
    shown.add_column("the reason shown")
    for _, *cells in sorted(rows):
        shown.add_row(*cells)
    return shown
