"""The fault matrix: every fault of a destination, with real ones, through the whole stack.

    .venv/bin/pytest tests/faults/test_destination_faults.py

prints one table. First each destination goes wrong in its turn, while the healthy one beside it is served; then
each is waited for, and what the index says is compared with what the destination has and answered; at last what
was refused is sent again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from local_stack.servers import built
from tests.support.faults import table
from tests.support.faults.matrix import CASES, INSTANCES, OTHERS, REASONS, Case, Matrix, matrix, others
from tests.support.faults.node import Fault, Node, third
from tests.support.faults.nodes import AloneNode, Orthanc, Scripted, Storescp, skip_unless_alone
from tests.support.faults.report import note_rows
from tests.support.servers import PEERS, ServersUnderTest
from tests.support.stack.running_stack import RunningStack

PEER_OF: dict[type[Node], str] = {Storescp: "dcmtk", Orthanc: "orthanc"}
"""What `make test-peers` calls a node's program."""


def refuses_for_good(case: Case) -> bool:
    """Return whether instances become dead letters; storescp's third has no room for it just now, and that passes."""
    return case.fault is Fault.REFUSES_CLASS or (case.fault is Fault.FAILS_THIRD and case.node is not Storescp)


def parameters(cases: Iterable[Case] = CASES) -> list[object]:
    """Return the cases, each marked with the peer it needs."""
    marks = {node: [pytest.mark.peer(peer)] for node, peer in PEER_OF.items()}
    return [pytest.param(case, id=case.name, marks=marks.get(case.node, [])) for case in cases]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, servers_under_test: ServersUnderTest, request: pytest.FixtureRequest
) -> Iterator[Matrix]:
    """A stack with a healthy destination, and one for each case that can be run here."""
    installed = [node for node, peer in PEER_OF.items() if all(built(tool) for tool in PEERS[peer])]
    cases = [case for case in CASES if case.node in {Scripted, *installed}]
    if any(issubclass(case.node, AloneNode) for case in cases):
        skip_unless_alone()
    folder = tmp_path_factory.mktemp("matrix")
    stack = RunningStack(folder / "home", servers_under_test.environ)
    try:
        with matrix(stack, folder / "nodes", cases) as made:
            yield made
            note_rows(request.config, table.NAME, map(table.row, made.rows.values()))
    finally:
        stack.stop()


@pytest.mark.parametrize("case", parameters())
def test_the_fault_is_told_and_delays_no_other(world: Matrix, case: Case) -> None:
    """Protects the healthy destination from the faulty one beside it, and support people from a guess at the reason."""
    row = world.suffer(case)
    # All of it arrived while the fault lasted; how fast is in the table, since machines are busy.
    assert row.beside < 10 * row.alone + 10
    assert bool(row.reason) == (case.fault in REASONS)


@pytest.mark.parametrize("case", parameters())
def test_the_end_is_the_truth_at_the_destination(world: Matrix, case: Case) -> None:
    """Protects the word "delivered": it stands for what the destination holds and has said so, and nothing is lost."""
    if case not in world.rows:
        world.suffer(case)
    row = world.finish(case)
    assert world.indexed(case) == Counter(one.sha256 for one in row.sent)
    wanted = OTHERS if case.fault is Fault.CRAWLS else INSTANCES
    dead = world.dead_letters(case)
    assert row.delivered + len(dead) == wanted
    refused = third(row.sent) if case.fault is Fault.FAILS_THIRD else {one.sop_instance_uid for one in others(row.sent)}
    assert dead.keys() == (refused if refuses_for_good(case) else set())
    assert set(dead.values()) <= {row.reason}
    assert row.held == row.delivered


@pytest.mark.parametrize("case", parameters(filter(refuses_for_good, CASES)))
def test_what_was_given_up_can_be_sent_again(world: Matrix, case: Case) -> None:
    """Protects a dead letter from being the end: once the destination is put right, it arrives."""
    if case not in world.rows:
        world.suffer(case)
        world.finish(case)
    world.send_again(case)
