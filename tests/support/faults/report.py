"""Where fault tests leave their tables for the end of the run."""

import pytest

TABLES = pytest.StashKey[list[str]]()
"""The tables to print, as text."""
