"""`kill -9` at every boundary between two steps: what was acknowledged gets where it belongs, once.

    .venv/bin/pytest tests/faults/test_kill_at_every_step.py

prints the table of boundaries. First each is come by in its turn, somebody dies there, and the stack goes on with
the next one as it is; then each study is waited for.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator

import pytest

from bucky.index import DeliveryState
from bucky.part10 import split
from tests.support.faults.report import TABLES
from tests.support.faults.stepped_stack import INSTANCES, Killed, SteppedStack
from tests.support.faults.steps import BOUNDARIES, Boundary
from tests.support.faults.steps_table import table
from tests.support.servers import ServersUnderTest
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(300)
CONVERGE_SECONDS = 120.0


class World:
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


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, servers_under_test: ServersUnderTest, request: pytest.FixtureRequest
) -> Iterator[World]:
    """One stack for all, whose parts talk over wires."""
    stepped = SteppedStack(tmp_path_factory.mktemp("steps"), servers_under_test)
    try:
        made = World(stepped)
        yield made
        request.config.stash.setdefault(TABLES, []).append(table(made.killed.values(), made.times_sent))
    finally:
        stepped.close()


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda boundary: boundary.name)
def test_somebody_dies_at_the_boundary(world: World, boundary: Boundary) -> None:
    """Protects the sender from whoever dies: it is told success for every instance, in the end."""
    assert len(world.come_by(boundary).acknowledged) == INSTANCES


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda boundary: boundary.name)
def test_all_is_right_in_the_end(world: World, boundary: Boundary) -> None:
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
