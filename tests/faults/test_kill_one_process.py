"""`kill -9` of any single process in the middle of a send: nothing acknowledged is lost, nothing doubled."""

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from bucky.dicom.part10 import split
from bucky.dimse import Outcome, Peer, StoreResult, store_all
from bucky.index import DeliveryState, InstanceRow
from local_stack.destination import received
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.servers import ServersUnderTest
from tests.support.soak import SOAK
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually

pytestmark = [pytest.mark.store, pytest.mark.index]

INSTANCES = 240 * SOAK
KILL_AFTER = INSTANCES // 3
CONVERGE_SECONDS = 90.0
# A server that is not the stack's own is killed in the run that is about it.
VICTIMS_OF_OTHERS = {
    "TEST_STORE": ("object-store",),
    "TEST_INDEX": ("postgresql", "index connections"),
}
PROCESSES = (
    "edge",
    "edge receivers",
    "edge committer",
    "edge uploader",
    "nats-server",
    "object-store",
    "connector",
    "keeper",
    "provider",
    "parse-instance",
    "route-instance",
    "forward-instances",
    "admin-api",
    "traefik",
    "demo-destination",
)


def victims() -> tuple[str, ...]:
    """Return what this run kills, one after the other."""
    others = [victim for name, several in VICTIMS_OF_OTHERS.items() if name in os.environ for victim in several]
    return tuple(others) or PROCESSES


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, servers_under_test: ServersUnderTest) -> Iterator[RunningStack]:
    """One stack for all: each case begins where the one before left a stack that healed."""
    running = RunningStack(tmp_path_factory.mktemp("faults") / "home", servers_under_test.environ)
    running.others |= servers_under_test.running
    yield running
    running.stop()


@pytest.mark.parametrize("victim", victims())
def test_nothing_acknowledged_is_lost(stack: RunningStack, victim: str) -> None:
    """After the kill and the restart every acknowledged instance is stored, indexed and delivered, once."""
    sent = samples(INSTANCES)
    send_and_kill(stack, sent, victim)
    expected = Counter(sample.sha256 for sample in sent)
    study = sent[0].study_instance_uid
    eventually(
        lambda: len(stack.deliveries(study, DeliveryState.DELIVERED)) >= INSTANCES,
        f"all {INSTANCES} delivered after {victim} was killed",
        seconds=CONVERGE_SECONDS,
    )
    instances = stack.instances(study)
    deliveries = stack.deliveries(study)
    assert Counter(row.sha256 for row in instances) == expected
    assert Counter(row.sha256 for row in deliveries) == expected
    assert {row.state for row in deliveries} == {DeliveryState.DELIVERED}
    assert Counter(digests_in_bucket(stack, instances)) == expected
    assert expected.keys() <= received(stack.home.destination).keys()
    eventually(stack.healthy, f"every part is well again after {victim} was killed")


def send_and_kill(stack: RunningStack, sent: Sequence[Sample], victim: str) -> None:
    """Send until every instance is acknowledged, killing the victim when 300 are."""
    acknowledged: set[int] = set()
    kill = threading.Event()

    def on_result(index: int, result: StoreResult) -> None:
        if result.outcome is Outcome.STORED:
            acknowledged.add(waiting[index])
        if len(acknowledged) >= KILL_AFTER and not kill.is_set():
            kill.set()
            stack.kill(victim)

    peer = Peer("BUCKY", "127.0.0.1", stack.ports.dicom, calling_aet="FAULTS")
    waiting = list(range(len(sent)))

    def all_acknowledged() -> bool:
        nonlocal waiting
        waiting = [index for index in range(len(sent)) if index not in acknowledged]
        store_all(peer, [sent[index].outgoing for index in waiting], associations=4, on_result=on_result)
        return len(acknowledged) == len(sent)

    eventually(all_acknowledged, f"every instance is acknowledged though {victim} was killed", seconds=CONVERGE_SECONDS)
    assert kill.is_set()


def digests_in_bucket(stack: RunningStack, instances: Sequence[InstanceRow]) -> list[str]:
    """Return the SHA-256 of each data set, computed from the bucket's bytes."""

    def digest(row: InstanceRow) -> str:
        content = stack.store.get(row.key)
        return hashlib.sha256(content[split(content)[1] :]).hexdigest()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(digest, instances))
