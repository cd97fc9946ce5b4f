"""Versions of the routing, the same on SQLite and PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from bucky.errors import Conflict, IndexUnavailable, NotFound
from bucky.index import Index
from bucky.routing.document import Routing

pytestmark = pytest.mark.index

ROUTING = Routing.from_yaml(
    """
    destinations:
      - {name: pacs, type: dimse, aet: PACS, host: 127.0.0.1, port: 104}
    rules:
      - name: ct
        when: {all: [{attribute: Modality, in: [CT, MR]}, {not: {association: calling_aet, equals: TEST}}]}
        destinations: [pacs]
    """
)


def test_versions_are_appended(index: Index) -> None:
    """Each save is a new version; what was in force before can still be read, as it was."""
    assert (index.routing().version, index.routing().document) == (0, Routing())
    assert index.save_routing(ROUTING, 0, "ann") == 1
    assert index.save_routing(Routing(), 1, "ben") == 2
    assert [(one.version, one.author) for one in index.routing_versions()] == [(2, "ben"), (1, "ann")]
    assert index.routing_version(1).document == ROUTING
    assert index.routing().document == Routing()
    with pytest.raises(NotFound):
        index.routing_version(3)


@pytest.mark.parametrize("expected", [0, 2, -1])
def test_a_save_on_another_version_is_refused(index: Index, expected: int) -> None:
    """Who edited an old version is told so, and nothing is overwritten."""
    index.save_routing(ROUTING, 0, "ann")
    with pytest.raises(Conflict):
        index.save_routing(Routing(), expected, "ben")
    assert index.routing().document == ROUTING


def test_of_concurrent_saves_one_wins(index: Index) -> None:
    """Of eight people who save at once, one succeeds and seven are told."""

    def save(number: int) -> bool:
        try:
            index.save_routing(ROUTING, 0, f"author {number}")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(save, range(8))) == [False] * 7 + [True]
    assert index.routing().version == 1


def test_a_routing_of_a_newer_program_is_not_misread(index: Index, index_url: str) -> None:
    """An older program that does not know a destination type stops routing, rather than route without it."""
    from sqlalchemy import create_engine, text

    index.save_routing(ROUTING, 0, "ann")
    engine = create_engine(index_url)
    with engine.begin() as connection:
        unknown = '{"destinations": [{"name": "x", "type": "carrier-pigeon"}]}'
        connection.execute(text("UPDATE routing_versions SET document = :document"), {"document": unknown})
    engine.dispose()
    with pytest.raises(IndexUnavailable):
        index.routing()
