"""`kill -9` at every boundary between two steps: what was acknowledged gets where it belongs, once.

    .venv/bin/pytest tests/faults/test_kill_at_every_step.py

prints the table of boundaries. First each is come by in its turn, somebody dies there, and the stack goes on with
the next one as it is; then each study is waited for.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator

import pytest

from bucky.dicom.part10 import split
from bucky.index import DeliveryState
from tests.support.faults import steps_table
from tests.support.faults.report import note_rows
from tests.support.faults.stepped_stack import INSTANCES, Killed, SteppedStack
from tests.support.faults.steps import BOUNDARIES, CALL_FORWARD, CALL_PARSE, Boundary
from tests.support.servers import ServersUnderTest
from tests.support.waiting import eventually

CONVERGE_SECONDS = 120.0
SIDE_BY_SIDE = 2
"""Stacks that share the boundaries, where pytest has as many workers."""


class BoundariesWorld:
    """The stack, and what was sent at each boundary."""

    def __init__(self, stepped: SteppedStack) -> None:
        self.stepped = stepped
        self.killed: dict[Boundary, Killed] = {}
        self.times_sent: dict[Boundary, int] = {}

    def come_by(self, boundary: Boundary) -> Killed:
        """Kill there, unless that is done."""
        if boundary not in self.killed:
            self.killed[boundary] = self.stepped.kill_at(boundary)
        return self.killed[boundary]


def about(boundary: Boundary) -> list[pytest.MarkDecorator]:
    """Return the markers of a boundary that another object store or database could make something else of."""
    at_the_store = boundary.kind.startswith("store ") or boundary.victim == "object-store"
    at_the_index = boundary.kind in {CALL_PARSE, CALL_FORWARD}
    return [pytest.mark.store] * at_the_store + [pytest.mark.index] * at_the_index


SHARED = [
    pytest.param(one, id=f"{number % SIDE_BY_SIDE}/{one.name}", marks=about(one))
    for number, one in enumerate(BOUNDARIES)
]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, servers_under_test: ServersUnderTest, request: pytest.FixtureRequest
) -> Iterator[BoundariesWorld]:
    """One stack for all, whose parts talk over wires."""
    stepped = SteppedStack(tmp_path_factory.mktemp("steps"), servers_under_test)
    try:
        made = BoundariesWorld(stepped)
        yield made
        rows = (steps_table.row(boundary, made.times_sent.get(boundary)) for boundary in made.killed)
        note_rows(request.config, steps_table.NAME, rows)
    finally:
        stepped.close()


@pytest.mark.parametrize("boundary", SHARED)
def test_somebody_dies_at_the_boundary(world: BoundariesWorld, boundary: Boundary) -> None:
    """Protects the sender from whoever dies: it is told success for every instance, in the end."""
    assert len(world.come_by(boundary).acknowledged) == INSTANCES


@pytest.mark.parametrize("boundary", SHARED)
def test_all_is_right_in_the_end(world: BoundariesWorld, boundary: Boundary) -> None:
    """Protects what was acknowledged: it is in bucket, index and destination, whole, with one row and one delivery."""
    killed, stack = world.come_by(boundary), world.stepped.stack
    study = killed.sent[0].study_instance_uid
    expected = Counter(one.sha256 for one in killed.sent)
    eventually(
        lambda: len(stack.deliveries(study, DeliveryState.DELIVERED)) >= INSTANCES,
        "all is delivered",
        seconds=CONVERGE_SECONDS,
    )
    instances = stack.instances(study)
    assert Counter(row.sha256 for row in instances) == expected
    assert Counter(row.sha256 for row in stack.deliveries(study)) == expected
    for row in instances:
        content = stack.store.get(row.key)
        assert hashlib.sha256(content[split(content)[1] :]).hexdigest() == row.sha256
    for one in killed.sent:
        kept = list((stack.home.destination / one.sop_instance_uid).iterdir())
        assert [path.stem for path in kept] == [one.sha256]
        content = kept[0].read_bytes()
        assert hashlib.sha256(content[split(content)[1] :]).hexdigest() == one.sha256
    uids = {one.sop_instance_uid for one in killed.sent}
    times_sent = sum(request.sop_instance_uid in uids for request in world.stepped.destination.requests)
    world.times_sent[boundary] = times_sent
    # What the destination had answered for in vain is sent once more, and that is the only way to know.
    assert times_sent > INSTANCES if boundary.kind == "send answered" else times_sent >= INSTANCES
