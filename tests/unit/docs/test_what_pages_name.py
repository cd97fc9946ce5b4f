"""Pages that name a test of the project: it is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_NAMED = re.compile(r"tests/[A-Za-z0-9_./*-]*[A-Za-z0-9_*/]")
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_test_that_a_page_names_is_there(page: Path) -> None:
    """The promise names the tests that hold it: a name that leads nowhere is no evidence."""
    missing = {name for name in _NAMED.findall(page.read_text()) if not list(ROOT.glob(name.rstrip("/")))}
    assert missing == set()
