"""Prints the tables of the fault tests at the end of a run."""

import pytest

from tests.support.faults.report import TABLES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the fault tests found."""
    for table in config.stash.get(TABLES, []):
        terminalreporter.section("faults")
        terminalreporter.write_line(table)
