"""The edge as several processes: each may be killed, and the others go on."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association

from bucky.dimse import Outcome, StoreResult, store_all
from edge_scp.process.channel import channel_pair
from edge_scp.process.supervisor import WorkerContext
from edge_scp.spool.folder import SpoolFolder
from edge_scp.spool.sync_queue import SyncQueue, SyncQueueDescriptors
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.dimse.raw_peer import RawPeer, request
from tests.support.edge.edge_process import EdgeProcess, edge_process, standing_still
from tests.support.edge.spool_world import all_kept
from tests.support.waiting import eventually

# An A-ASSOCIATE-RJ: rejected transient, by the presentation service, local limit exceeded (PS3.8 §9.3.4).
TOO_MANY = b"\x03\0\0\0\0\x04\0\x02\x03\x02"


pytestmark = pytest.mark.usefixtures("requestors_close_their_sockets")


def associated(edge: EdgeProcess) -> Association:
    """Ask for an association that may verify."""
    entity = AE("TEST")
    entity.acse_timeout = entity.network_timeout = 60
    entity.add_requested_context("1.2.840.10008.1.1")
    return entity.associate("127.0.0.1", edge.port, ae_title="BUCKY")


def answer(edge: EdgeProcess) -> bytes:
    """Ask for an association, and end it; return the answer."""
    # pynetdicom's requestor takes some rejections for a lost connection.
    with RawPeer(edge.port) as peer:
        peer.send(request())
        return peer.receive()


def served(edge: EdgeProcess) -> bool:
    """Tell whether an association is accepted now."""
    return answer(edge)[:1] == b"\x02"


def committer(edge: EdgeProcess) -> dict[str, Any]:
    """Return what the health page says of the committer."""
    return edge.children()["committer"]


def gone(pid: int) -> bool:
    """Tell whether a process is no more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def assert_account_is_true(edge: EdgeProcess) -> None:
    """The health page shows what is in the folder, and all of it is whole."""
    kept = all_kept(edge.spool)
    assert edge.until_counted(len(kept))["spool"]["bytes"] == sum(size for _, size in kept)
    assert len(digests(edge)) == len(kept)


def digests(edge: EdgeProcess) -> set[str]:
    """Return the digests of what is in the spool."""
    return {record.sha256 for record, _ in all_kept(edge.spool)}


@pytest.fixture(params=[0, 64], ids=["files", "slots"])
def edge(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[EdgeProcess]:
    """An edge of two receivers that has nowhere to upload to, and fewer slots than it will keep instances."""
    with edge_process(tmp_path, edge_processes=2, spool_slots=request.param) as edge:
        yield edge


@pytest.fixture
def edge_without_slots(tmp_path: Path) -> Iterator[EdgeProcess]:
    """One that keeps all in files, which the committer makes durable."""
    with edge_process(tmp_path, edge_processes=2) as edge:
        yield edge


def test_a_killed_receiver_costs_its_associations_only(edge: EdgeProcess) -> None:
    """kill -9 of a receiver while it receives: what it acknowledged is kept, the others go on, it is replaced."""
    sent = samples(200)
    acknowledged: set[str] = set()

    def note(index: int, result: object) -> None:
        if getattr(result, "outcome", None) is Outcome.STORED:
            acknowledged.add(sent[index].sha256)

    spared = associated(edge)
    victim = edge.children()["receiver-1"]["pid"]
    with ThreadPoolExecutor(1) as pool:
        items = [sample.outgoing for sample in sent]
        sending = pool.submit(store_all, edge.peer(), items, associations=4, on_result=note)
        eventually(lambda: len(acknowledged) > 30, "some were acknowledged")
        os.kill(victim, signal.SIGKILL)
        results = sending.result()
    assert spared.send_c_echo().Status == 0
    spared.release()
    eventually(lambda: edge.children()["receiver-1"]["ready"], "the receiver runs again")
    assert edge.children()["receiver-1"]["restarts"] == 1
    eventually(lambda: edge.health()["listeners"][0]["associations"] == 0, "no association is left")
    kept = digests(edge)
    assert acknowledged <= kept
    assert len(acknowledged) == sum(result.outcome is Outcome.STORED for result in results)
    eventually(lambda: edge.health()["spool"]["instances"] == len(kept), "the account is true again")
    assert_account_is_true(edge)
    more = store_all(edge.peer(), [sample.outgoing for sample in samples(8)], associations=4)
    assert {result.outcome for result in more} == {Outcome.STORED}
    assert_account_is_true(edge)


def test_a_killed_uploader_is_replaced_and_counts_anew(edge: EdgeProcess) -> None:
    """kill -9 of the uploader: the edge goes on receiving, and the new one knows all that is there."""
    store_all(edge.peer(), [sample.outgoing for sample in samples(10)], associations=2)
    os.kill(edge.children()["uploader"]["pid"], signal.SIGKILL)
    results = store_all(edge.peer(), [sample.outgoing for sample in samples(10)], associations=2)
    assert {result.outcome for result in results} == {Outcome.STORED}
    eventually(lambda: edge.children()["uploader"]["ready"], "the uploader runs again")
    assert edge.children()["uploader"]["restarts"] == 1
    eventually(lambda: edge.health()["spool"]["instances"] == 20, "all are known")
    assert_account_is_true(edge)


def test_a_killed_committer_costs_no_acknowledged_instance(edge: EdgeProcess) -> None:
    """kill -9 of the committer under load: what waits is refused, the others are kept, and a successor goes on."""
    acknowledged: set[str] = set()
    killed = threading.Event()

    def note(sent: list[Sample], index: int, result: StoreResult) -> None:
        if result.outcome is Outcome.STORED:
            acknowledged.add(sent[index].sha256)

    def send() -> list[StoreResult]:
        results: list[StoreResult] = []
        while not killed.is_set():
            sent = samples(200)
            items = [sample.outgoing for sample in sent]
            results += store_all(edge.peer(), items, associations=8, on_result=partial(note, sent))
        return results

    def kill(enough: int, restarts: int) -> None:
        eventually(lambda: len(acknowledged) > enough, "some were acknowledged")
        os.kill(committer(edge)["pid"], signal.SIGKILL)
        eventually(lambda: committer(edge)["restarts"] == restarts, "its end was noticed")
        eventually(lambda: committer(edge)["ready"], "the committer runs again")

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        try:
            kill(enough=30, restarts=1)
            kill(enough=len(acknowledged) + 30, restarts=2)
        finally:
            killed.set()
        results = sending.result()
    assert {result.status for result in results} <= {0x0000, 0xA700}
    assert len(acknowledged) == sum(result.status == 0x0000 for result in results)
    refused = [result.comment for result in results if result.status == 0xA700]
    assert set(refused) == {"The spool could not be synced; send again later"}
    assert digests(edge) == acknowledged
    assert_account_is_true(edge)
    assert sum(child["restarts"] for child in edge.children().values()) == 2
    again = store_all(edge.peer(), [sample.outgoing for sample in samples(8)], associations=4)
    assert {result.outcome for result in again} == {Outcome.STORED}


def test_a_committer_that_hangs_is_waited_for(edge_without_slots: EdgeProcess) -> None:
    """While the committer stands still nothing is acknowledged; when it goes on, everything is."""
    edge = edge_without_slots
    sent = samples(4)
    answered: list[int] = []

    def note(index: int, _result: object) -> None:
        answered.append(index)

    with ThreadPoolExecutor(1) as pool:
        with standing_still(committer(edge)["pid"]):
            items = [sample.outgoing for sample in sent]
            sending = pool.submit(store_all, edge.peer(), items, associations=4, on_result=note)
            eventually(lambda: len(list((edge.spool / "ready").iterdir())) == 4, "all came whole")
            with pytest.raises(TimeoutError):
                sending.result(2)
            assert answered == []
            assert edge.health()["accepting"]
        results = sending.result(20)
    assert {result.outcome for result in results} == {Outcome.STORED}
    assert committer(edge)["restarts"] == 0
    assert_account_is_true(edge)


BROKEN_COMMITTER = """
from edge_scp.process import commit_worker, supervisor
from edge_scp.spool.disk import Disk

def broken(self, descriptor):
    raise MemoryError

Disk.sync_file_system = broken
supervisor.run(commit_worker.commit)
"""


def test_a_failure_nobody_foresaw_ends_the_committer(tmp_path: Path) -> None:
    """A committer that cannot answer ends, so that its successor does; it would be waited for otherwise."""
    SpoolFolder(tmp_path).make()
    descriptors = SyncQueueDescriptors.create(1)
    ours, theirs = channel_pair()
    nothing = os.open(os.devnull, os.O_RDONLY)
    inherited = WorkerContext(0, 0, theirs.fileno(), nothing, nothing, nothing, nothing, descriptors)
    with ours, theirs:
        ours.settimeout(20)
        process = subprocess.Popen(
            (sys.executable, "-c", BROKEN_COMMITTER, *inherited.arguments()),
            env={**os.environ, "BUCKY_SPOOL_DIR": str(tmp_path)},
            pass_fds=inherited.descriptors,
            stderr=subprocess.PIPE,
        )
        assert b"ready" in ours.recv(1000)
        SyncQueue(descriptors).ask(0, 1)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert json.loads(said)["event"] == "committer.failed"
    assert SyncQueue(descriptors).dealt(0).files == 0
    for descriptor in (nothing, *descriptors):
        os.close(descriptor)


@pytest.mark.parametrize("slots", [0, 64])
def test_all_receivers_share_a_committer(tmp_path: Path, slots: int) -> None:
    """With slots and without, one process more syncs for all receivers, and what they acknowledge is counted."""
    with edge_process(tmp_path, edge_processes=2, spool_slots=slots) as edge:
        results = store_all(edge.peer(), [sample.outgoing for sample in samples(20)], associations=4)
        assert {result.outcome for result in results} == {Outcome.STORED}
        assert sorted(edge.children()) == ["committer", "receiver-0", "receiver-1", "uploader"]
        assert_account_is_true(edge)


def test_a_killed_parent_takes_its_children_and_leaves_nothing_locked(edge: EdgeProcess) -> None:
    """kill -9 of the parent: no process is left behind, and the edge starts again on the same port and spool."""
    store_all(edge.peer(), [sample.outgoing for sample in samples(5)])
    children = [child["pid"] for child in edge.children().values()]
    assert len(children) == 4
    edge.kill()
    edge.start()
    eventually(lambda: all(gone(pid) for pid in children), "the killed parent's children are gone")
    assert_account_is_true(edge)
    edge.until_counted(5)


def test_a_signal_to_all_processes_is_a_drain_all_the_same(tmp_path: Path) -> None:
    """Ctrl-C or systemd signal every process at once: open associations finish, and the edge ends with 0."""
    with edge_process(tmp_path, edge_processes=2) as edge:
        association = associated(edge)
        for child in edge.children().values():
            os.kill(child["pid"], signal.SIGTERM)
            os.kill(child["pid"], signal.SIGINT)
        edge.terminate()
        eventually(lambda: _refuses(edge.port), "the port is closed")
        edge.assert_finishes(association)


def test_limits_hold_across_processes(tmp_path: Path) -> None:
    """The listener's limit counts all receivers' associations; past it a peer is told so, and room is given back."""
    with edge_process(tmp_path, edge_processes=2, edge_max_associations=3) as edge, ExitStack() as stack:
        admitted = [associated(edge) for _ in range(3)]
        for association in admitted:
            stack.callback(association.release)
            assert association.is_established
        edge.until_serving(3)
        assert answer(edge) == TOO_MANY
        stack.pop_all().close()
        eventually(lambda: edge.health()["listeners"][0]["associations"] == 0, "they are over")
        assert served(edge)


def test_one_peer_cannot_take_every_place(tmp_path: Path) -> None:
    """A peer at its own limit is refused as transient while others would still be served."""
    with edge_process(tmp_path, edge_max_associations_per_peer=1) as edge:
        first = associated(edge)
        assert first.is_established
        assert answer(edge) == TOO_MANY
        first.release()
        # One attempt after the other, until the place is free: each is over before the next.
        eventually(lambda: served(edge), "its place is free again")


def test_idle_connections_past_the_limit_are_dropped(tmp_path: Path) -> None:
    """Connections that are too many are answered up to a bound; past it they are closed at once."""
    with edge_process(tmp_path, edge_max_associations=1) as edge, ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", edge.port), 5)) for _ in range(40)]
        dropped = 0
        deadline = time.monotonic() + 5
        while dropped < 7 and time.monotonic() < deadline:
            dropped = sum(_closed(connection) for connection in idle)
        assert dropped == 40 - 1 - 32
        refused = 'bucky_edge_connections_refused_total{reason="too many connections"} 7.0'
        eventually(lambda: refused in edge.metrics(), "the seven are counted")


def counters(page: str) -> dict[str, float]:
    """Return the numbers on a metrics page by their names."""
    lines = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def stored_by_receiver(page: str) -> list[float]:
    """Return how many instances each of two receivers stored."""
    name = 'bucky_edge_store_requests_total{{process="receiver-{}",status="success"}}'
    return [counters(page).get(name.format(number), 0.0) for number in (0, 1)]


def test_metrics_are_one_page_of_all_processes(edge_without_slots: EdgeProcess) -> None:
    """The metrics page shows each process's counters under its name, and the spool's state once."""
    edge = edge_without_slots
    store_all(edge.peer(), [sample.outgoing for sample in samples(20)], associations=4)
    eventually(lambda: sum(stored_by_receiver(edge.metrics())) == 20, "every process's counters are told")
    page = edge.metrics()
    assert min(stored_by_receiver(page)) > 0
    counts = counters(page)
    assert counts["bucky_edge_spool_instances"] == 20
    assert counts['bucky_edge_commit_group_size_sum{process="committer"}'] == 20
    assert page.count("# TYPE bucky_edge_store_requests_total counter") == 1


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def _closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
