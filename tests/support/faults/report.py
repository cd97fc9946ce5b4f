"""What fault tests found, kept as rows until the end of the run, when one table is made of all workers' rows."""

from collections.abc import Iterable, Sequence

import pytest

TABLES = pytest.StashKey[dict[str, list[list[str]]]]()
"""By the name of a table, its rows: cells as text, the first of which orders them."""


def note_rows(config: pytest.Config, name: str, rows: Iterable[Sequence[str]]) -> None:
    """Add rows to a table."""
    config.stash.setdefault(TABLES, {}).setdefault(name, []).extend(map(list, rows))
