"""The page that follows one instance names files and classes that are there, and no more than a reader can hold."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "explanation" / "follow-one-instance.md").read_text()
MOST_FILES = 25


def test_every_file_it_names_is_there() -> None:
    """A newcomer follows the page with an editor: each step must lead somewhere."""
    named = set(re.findall(r"`((?:functions|edge-scp|openfaas)/[^`]+)`", PAGE))
    assert {name for name in named if not (ROOT / name).is_file()} == set()
    assert 20 <= len(named) <= MOST_FILES


def test_every_class_it_names_is_defined() -> None:
    """A name on the page that is nowhere in the code is a dead end."""
    sources = "".join(
        path.read_text() for folder in ("functions", "edge-scp") for path in (ROOT / folder).rglob("*.py")
    )
    for name in re.findall(r"`([A-Z]\w+)`", PAGE):
        assert re.search(rf"^class {name}\b", sources, re.MULTILINE), name
