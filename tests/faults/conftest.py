"""Prints the tables of the fault tests at the end of a run."""

import pytest
from rich.console import Console

from tests.support.faults import steps_table, table
from tests.support.faults.report import TABLES

WIDTH = 170
TABLE_OF = {steps_table.NAME: steps_table.table, table.NAME: table.table}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the fault tests found."""
    for name, rows in config.stash.get(TABLES, {}).items():
        console = Console(width=WIDTH, no_color=True)
        with console.capture() as captured:
            console.print(TABLE_OF[name](rows))
        terminalreporter.section("faults")
        terminalreporter.write_line(captured.get())
