"""How tests are dealt to workers that run side by side (`pytest -n`): what shares servers goes to one worker.

A file is dealt whole, and so is the folder `SHARED`, whose files share a stack. Where the ids of a file's parameters
begin with the number of a stack and a slash, as `[1/parsed...]`, each stack's part is. The longest are begun first,
so that no worker is alone with one at the end.
"""

import re

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

LONGEST = "tests/faults/"
SHARED = "tests/integration/stack/"

_NUMBERED = re.compile(r"\[(\d+)/")


def group_of(nodeid: str) -> str:
    """Return the name of the group that a test belongs to."""
    file = nodeid.partition("::")[0]
    if file.startswith(SHARED):
        return SHARED
    numbered = _NUMBERED.search(nodeid)
    return f"{file} {numbered[1]}" if numbered else file


def longest_first(items: list[pytest.Item]) -> None:
    """Put first what takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith((LONGEST, SHARED)))


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Deals groups in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
