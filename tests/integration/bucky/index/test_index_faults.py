"""The index on PostgreSQL, over a line that breaks: each call fails soon, and the next one that can work does.

With `TEST_INDEX=postgres` (`make test-postgres`); SQLite has no line to break.
"""

import os
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.engine import make_url

from bucky.errors import IndexUnavailable
from bucky.index import Index, patience
from bucky.routing.document import Routing
from tests.support.network.faulty_line import FaultyLine
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(os.environ.get("TEST_INDEX") != "postgres", reason="run `make test-postgres`")


@pytest.fixture
def line(index_url: str) -> Iterator[FaultyLine]:
    """A line to the database."""
    port = make_url(index_url).port
    assert port is not None
    with FaultyLine(port) as line:
        yield line


BREAKS: dict[str, Callable[[FaultyLine], None]] = {
    "closed": FaultyLine.refuse,
    "half open": FaultyLine.silence,
    "reset": lambda line: line.cut(reset=True),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_broken_line_is_an_index_that_is_away(
    fault: str, line: FaultyLine, index_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never hangs a process: the call ends in time, and a later one finds the index again by itself."""
    monkeypatch.setattr(patience, "ANSWER_SECONDS", 1.0)
    index = Index.open(make_url(index_url).set(port=line.port).render_as_string(hide_password=False))
    try:
        index.migrate()
        index.save_routing(Routing(), 0, "test")
        BREAKS[fault](line)
        if fault != "reset":
            with pytest.raises(IndexUnavailable):
                index.routing()
        line.heal()

        def found() -> bool:
            try:
                return index.routing().version == 1
            except IndexUnavailable:
                return False

        eventually(found, "the index is found again")
        assert index.save_routing(Routing(), 1, "test") == 2
    finally:
        index.close()


def test_a_migration_may_take_longer_than_an_answer(index_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing millions of rows takes as long as it takes."""
    monkeypatch.setattr(patience, "ANSWER_SECONDS", 0.0)
    index = Index.open(index_url)
    try:
        index.migrate()
        monkeypatch.setattr(patience, "ANSWER_SECONDS", 40.0)
        index.check()
    finally:
        index.close()
