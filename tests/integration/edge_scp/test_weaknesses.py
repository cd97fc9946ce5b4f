"""What a DICOM receiver was measured to be weak at, done to the edge while an honest sender goes on storing.

Each time the place is free again afterwards, no process took memory to speak of, and the honest sender noticed nothing.
"""

import contextlib
import itertools
import os
import resource
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edge_scp.association.statuses import Status
from tests.support.dicom.sample_instances import samples
from tests.support.dimse.raw_peer import (
    ABORT,
    CT,
    RELEASE_RP,
    RELEASE_RQ,
    STORE_ID,
    RawPeer,
    echo,
    request,
    store,
    values,
)
from tests.support.edge.edge_process import EdgeProcess, edge_process, standing_still
from tests.support.edge.spool_world import all_kept

DEFLATED = "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF
INVALID = ABORT[:8] + b"\x02\x06"
MIB = 1024 * 1024
# What one process may take more than before: its buffers, and none of what a peer sends.
ROOM = 12 * MIB
MANY: dict[str, Any] = {
    "edge_max_associations": 2000,
    "edge_max_associations_per_peer": 2000,
    "edge_artim_seconds": 60,
}
TICKS = os.sysconf("SC_CLK_TCK")
_numbers = itertools.count(1)


class Neighbour(RawPeer):
    """A peer at another address than the others'."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 5, source_address=("127.0.0.2", 0))


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    """An edge of one receiver, which all peers share, with short times."""
    with edge_process(
        tmp_path_factory.mktemp("edge"), edge_processes=1, edge_artim_seconds=1, edge_idle_seconds=2
    ) as running:
        yield running


def pids(edge: EdgeProcess) -> list[int]:
    """Return the process ids of parent and children."""
    assert edge.process is not None
    return [edge.process.pid, *(child["pid"] for child in edge.children().values())]


def peak(pid: int) -> int:
    """Return the most memory a process had since that was reset, in bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def busy_seconds(processes: list[int]) -> float:
    """Return the processor time that processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def threads(processes: list[int]) -> list[int]:
    """Return how many threads each has."""
    return [len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in processes]


@contextmanager
def survived(edge: EdgeProcess) -> Iterator[None]:
    """Do the worst in this block: an honest sender notices nothing, memory is bounded, and places are free after it."""
    over, stored, waits = threading.Event(), threading.Event(), []

    def store_on() -> None:
        with Neighbour(edge.port).associate() as peer:
            while not over.wait(0.01):
                (sample,) = samples(1)
                began = time.monotonic()
                peer.send(store(sample.outgoing.content().read(), uid=sample.sop_instance_uid))
                assert peer.stored() == (1, 0, "")
                waits.append(time.monotonic() - began)
                stored.set()
            peer.send(RELEASE_RQ)
            assert peer.receive()[0] == 0x06

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(store_on)
        try:
            assert stored.wait(10)
            before = {pid: peak_from_now(pid) for pid in pids(edge)}
            yield
            stored.clear()
            assert stored.wait(10), "the honest sender is still served"
        finally:
            over.set()
            sending.result()
    assert max(waits) < 2
    assert sorted(waits)[len(waits) // 2] < 0.25
    edge.until_serving(0, seconds=5)
    assert {pid: (peak(pid) - most) // ROOM for pid, most in before.items()} == dict.fromkeys(before, 0)
    assert set(pids(edge)) == set(before), "no process had to be replaced"
    assert not [line for line in edge.log_lines() if line["event"] in {"instance.failed", "thread.failed"}]


def peak_from_now(pid: int) -> int:
    """Forget a process's highest memory use, and return what it has."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def fresh_uid() -> str:
    """Return a UID that no other instance of this run has."""
    return f"2.25.{os.getpid()}.{next(_numbers)}"


def uid_element(group: int, number: int, uid: str) -> bytes:
    """Encode a UID with explicit VR, padded."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return struct.pack("<HH2sH", group, number, b"UI", len(value)) + value


def long_element(group: int, number: int, vr: bytes, length: int) -> bytes:
    """Encode what comes before the value of a long element or a sequence."""
    return struct.pack("<HH2sHI", group, number, vr, 0, length)


def data_set(uid: str, between: bytes = b"", after: bytes = b"") -> bytes:
    """Return a CT data set with something before its Study Instance UID, and something at its end."""
    return b"".join(
        (
            uid_element(0x0008, 0x0016, CT),
            uid_element(0x0008, 0x0018, uid),
            between,
            uid_element(0x0020, 0x000D, "1.2.3"),
            uid_element(0x0020, 0x000E, "1.2.33"),
            after,
        )
    )


def kept(edge: EdgeProcess) -> dict[str, list[str]]:
    """Return the digests of what is in the spool, by SOP Instance UID; each file is whole."""
    found: dict[str, list[str]] = {}
    for record, _ in all_kept(edge.spool):
        found.setdefault(record.sop_instance_uid, []).append(record.sha256)
    return found


def sent(peer: RawPeer, content: bytes, uid: str) -> int:
    """Send one instance; return the status that answers it."""
    peer.send(store(content, uid=uid))
    return peer.stored()[1]


@pytest.mark.parametrize(
    "opening", [b"", b"\x01", b"\x01\0\0\0\x01\0"], ids=["nothing", "one byte", "a bare PDU header"]
)
def test_a_connection_that_begins_and_does_not_go_on(edge: EdgeProcess, opening: bytes) -> None:
    """Whoever says nothing, one byte or a bare PDU header is closed after ARTIM."""
    with survived(edge), RawPeer(edge.port) as stranger:
        stranger.send(opening)
        assert stranger.closed()


@pytest.mark.parametrize("associated", [False, True], ids=["its request", "an instance"])
def test_a_connection_that_drips(edge: EdgeProcess, associated: bool) -> None:
    """A byte now and then keeps no place, before the association or in it."""
    uid = fresh_uid()
    whole = store(data_set(uid), uid=uid) if associated else request()
    with survived(edge), RawPeer(edge.port) as slow:
        if associated:
            slow.associate()
        slow.socket.settimeout(0.1)
        received = None
        for byte in whole[:60]:
            with contextlib.suppress(TimeoutError):
                received = slow.socket.recv(100)
                break
            slow.send(bytes([byte]))
        assert received == (ABORT if associated else b"")
    assert uid not in kept(edge)


def test_idle_sockets_that_take_all_places(tmp_path: Path) -> None:
    """They give way to the next caller at once, the oldest first, and none stays longer than ARTIM."""
    limits: dict[str, Any] = {"edge_max_associations": 13, "edge_max_associations_per_peer": 13}
    with edge_process(tmp_path, edge_processes=1, edge_artim_seconds=2, **limits) as edge, survived(edge):
        with ExitStack() as stack:
            idle = [stack.enter_context(RawPeer(edge.port)) for _ in range(12)]
            edge.until_serving(13, seconds=5)
            with Neighbour(edge.port).associate(), Neighbour(edge.port).associate():
                assert all(peer.closed() for peer in idle)
        with RawPeer(edge.port).associate() as peer:
            peer.send(echo())
            assert peer.status() == 0


def test_an_association_request_of_300_megabytes(edge: EdgeProcess) -> None:
    """It is refused by its length, and what comes of it all the same is kept by nobody."""
    with survived(edge), RawPeer(edge.port) as stranger:
        stranger.send(struct.pack(">BxI", 1, 300 * MIB) + bytes(1000))
        assert stranger.receive() == ABORT
        with contextlib.suppress(OSError):
            for _ in range(300):
                stranger.send(bytes(MIB))
        assert stranger.closed()


def test_a_pdu_longer_than_advertised(edge: EdgeProcess) -> None:
    """128 KiB is advertised, and a gigabyte is an abort at its header."""
    with survived(edge), RawPeer(edge.port) as peer:
        peer.send(request())
        assert struct.pack(">BxHI", 0x51, 4, 131072) in peer.receive()
        peer.send(struct.pack(">BxI", 4, 1024 * MIB))
        assert peer.receive() == INVALID
        assert peer.closed()


def test_a_promised_data_set_that_never_comes(edge: EdgeProcess) -> None:
    """A C-STORE-RQ without its data set ends in an abort, soon."""
    with survived(edge), RawPeer(edge.port).associate() as peer:
        peer.send(store(b"")[:-12])
        assert peer.receive() == ABORT
        assert peer.closed()


def test_a_data_set_that_is_not_what_its_command_says(edge: EdgeProcess) -> None:
    """Another instance or another class than announced is refused, and the association goes on."""
    announced, other = fresh_uid(), fresh_uid()
    with survived(edge), RawPeer(edge.port).associate() as peer:
        assert sent(peer, data_set(other), announced) == Status.DATA_SET_MISMATCH
        assert sent(peer, data_set(announced).replace(CT.encode(), CT[:-1].encode() + b"4"), announced) == (
            Status.DATA_SET_MISMATCH
        )
        peer.send(store(data_set(announced), uid=announced).replace(CT.encode(), CT[:-1].encode() + b"4", 1))
        assert peer.stored()[1] == Status.SOP_CLASS_NOT_SUPPORTED
        assert not {announced, other} & kept(edge).keys()
        assert sent(peer, data_set(announced), announced) == Status.SUCCESS
    assert announced in kept(edge)


def test_a_truncated_data_set(edge: EdgeProcess) -> None:
    """Cut before its UIDs it is refused; cut in its pixels it is kept as it came; without its end it never came."""
    refused, short, lost = fresh_uid(), fresh_uid(), fresh_uid()
    cut = data_set(short, after=long_element(0x7FE0, 0x0010, b"OB", MIB) + bytes(1000))
    with survived(edge), RawPeer(edge.port).associate() as peer:
        assert sent(peer, data_set(refused)[:-10], refused) == Status.CANNOT_UNDERSTAND
        assert sent(peer, cut, short) == Status.SUCCESS
        peer.send(store(data_set(lost), uid=lost)[:-10])
    found = kept(edge)
    assert not {refused, lost} & found.keys()
    assert found[short] == [sha256(cut).hexdigest()]


def test_a_random_data_set(edge: EdgeProcess) -> None:
    """Noise is refused, and nothing of it is kept."""
    uid = fresh_uid()
    with survived(edge), RawPeer(edge.port).associate() as peer:
        for size in (1, 1000, 100_000):
            assert sent(peer, os.urandom(size), uid) == Status.CANNOT_UNDERSTAND
    assert uid not in kept(edge)


def deflated(before: bytes, zeros: int, after: bytes) -> bytes:
    """Return a deflated stream of few bytes with so many times 64 MiB of zeros in it."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = stream.compress(before) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(64 * MIB)) + stream.flush(zlib.Z_FULL_FLUSH)
    return head + block * zeros + stream.compress(after) + stream.flush()


@pytest.mark.parametrize(
    ("group", "status"),
    [(0x0009, Status.CANNOT_UNDERSTAND), (0x7FE1, Status.SUCCESS)],
    ids=["before its UIDs", "after its UIDs"],
)
def test_a_deflated_data_set_of_two_gigabytes(edge: EdgeProcess, group: int, status: Status) -> None:
    """Inflated no further than to its UIDs: kept as it came when those are found, else refused."""
    uid = fresh_uid()
    plain, bomb = data_set(uid), long_element(group, 0x1001, b"UN", 2**31)
    cut = plain.index(b"\x20\0\x0d\0") if group < 0x0020 else len(plain)
    content = deflated(plain[:cut] + bomb, 32, plain[cut:])
    assert len(content) < 3 * MIB
    with survived(edge), RawPeer(edge.port) as peer:
        peer.send(request(contexts=[(CT, DEFLATED)]))
        assert peer.receive()[0] == 0x02
        assert sent(peer, content, uid) == status
    assert kept(edge).get(uid, []) == ([sha256(content).hexdigest()] if status is Status.SUCCESS else [])


def test_three_thousand_nested_sequences(edge: EdgeProcess) -> None:
    """They are walked without recursion, and the instance is kept byte for byte."""
    uid = fresh_uid()
    opening = long_element(0x0008, 0x1140, b"SQ", UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    closing = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    content = data_set(uid, opening * 3000 + closing * 3000)
    with survived(edge), RawPeer(edge.port).associate() as peer:
        assert sent(peer, content, uid) == Status.SUCCESS
    assert kept(edge)[uid] == [sha256(content).hexdigest()]


def test_an_instance_of_a_hundred_megabytes(edge: EdgeProcess) -> None:
    """It is never put together in memory."""
    uid = fresh_uid()
    head = data_set(uid, after=long_element(0x7FE0, 0x0010, b"OB", 100 * MIB))
    digest = sha256(head)
    with survived(edge), RawPeer(edge.port).associate() as peer:
        # Without its last fragment, which would end it.
        peer.send(store(b"", uid=uid)[:-12] + values((STORE_ID, 0, head)))
        for _ in range(1024):
            peer.send(values((STORE_ID, 0, bytes(100 * 1024))))
            digest.update(bytes(100 * 1024))
        peer.send(values((STORE_ID, 2, b"")))
        assert peer.stored() == (1, 0, "")
    assert kept(edge)[uid] == [digest.hexdigest()]


def test_the_called_ae_title_is_asked_for(edge: EdgeProcess) -> None:
    """Without a setting a wrong one is rejected, with the reason."""
    with survived(edge), RawPeer(edge.port) as stranger:
        stranger.send(request("ANY-SCP"))
        assert stranger.receive()[6:10] == b"\0\x01\x01\x07"
        assert stranger.closed()


def test_a_path_as_sop_instance_uid(edge: EdgeProcess) -> None:
    """It is refused, in the command and in the data set, and names no file."""
    uid, path = fresh_uid(), "../../x"
    with survived(edge), RawPeer(edge.port).associate() as peer:
        assert sent(peer, data_set(path), path) == Status.CANNOT_UNDERSTAND
        assert sent(peer, data_set(path), uid) == Status.CANNOT_UNDERSTAND
        assert sent(peer, data_set(uid), uid) == Status.SUCCESS
    assert path not in kept(edge)
    assert {entry.name for entry in edge.spool.iterdir()} == {"ready", "quarantine", "lock"}
    assert {entry.name for entry in edge.spool.parent.iterdir()} == {"spool", "edge.log"}


def test_one_sop_instance_uid_from_two_senders_at_once(edge: EdgeProcess) -> None:
    """Both are kept whole, under names of their own, and one that is cut off leaves nothing."""
    uid = fresh_uid()
    contents = [data_set(uid, after=long_element(0x7FE0, 0x0010, b"OB", MIB) + fill * MIB) for fill in (b"a", b"b")]
    with survived(edge), ExitStack() as stack:
        first, second, third = (stack.enter_context(RawPeer(edge.port).associate()) for _ in range(3))
        messages = [store(content, uid=uid) for content in contents]
        third.send(messages[0][:-1000])
        third.socket.close()
        for at in range(0, len(messages[0]), 100_000):
            first.send(messages[0][at : at + 100_000])
            second.send(messages[1][at : at + 100_000])
        assert (first.stored(), second.stored()) == ((1, 0, ""), (1, 0, ""))
    assert sorted(kept(edge)[uid]) == sorted(sha256(content).hexdigest() for content in contents)


def test_a_disk_that_stalls_holds_up_nobody_else(edge: EdgeProcess) -> None:
    """While a sync hangs, the instance is not answered, and the same process serves others."""
    committer = edge.children()["committer"]["pid"]
    uid = fresh_uid()
    with RawPeer(edge.port).associate() as waiting, Neighbour(edge.port).associate() as other:
        with standing_still(committer):
            waiting.send(store(data_set(uid), uid=uid))
            for number in range(20):
                other.send(echo(number))
                assert other.status() == 0
            waiting.socket.settimeout(0.1)
            with pytest.raises(TimeoutError):
                waiting.socket.recv(1)
        waiting.socket.settimeout(5)
        assert waiting.stored() == (1, 0, "")
    assert uid in kept(edge)


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[EdgeProcess]:
    """An edge of one receiver with times and limits that nothing here reaches."""
    with edge_process(tmp_path, edge_processes=1, **MANY) as running:
        yield running


def test_idle_associations_that_poll(patient: EdgeProcess) -> None:
    """Thirty-two associations that wait cost no thread and next to no processor time."""
    processes = pids(patient)
    before = threads(processes)
    with ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(RawPeer(patient.port).associate())
        used, began = busy_seconds(processes), time.monotonic()
        time.sleep(2)  # what is measured is the cost of doing nothing for a while
        assert (busy_seconds(processes) - used) / (time.monotonic() - began) < 0.05
        assert threads(processes) == before


def cost(edge: EdgeProcess, senders: int, each: int) -> float:
    """Return the processor time that an instance of half a megabyte costs the edge, in seconds."""
    tail = long_element(0x7FE0, 0x0010, b"OB", MIB // 2) + bytes(MIB // 2)

    def send(_number: int) -> None:
        with RawPeer(edge.port).associate() as peer:
            for _ in range(each):
                uid = fresh_uid()
                peer.send(store(data_set(uid, after=tail), uid=uid, max_pdu=131072))
                assert peer.stored() == (1, 0, "")

    processes = pids(edge)
    used = busy_seconds(processes)
    with ThreadPoolExecutor(senders) as pool:
        list(pool.map(send, range(senders)))
    return (busy_seconds(processes) - used) / (senders * each)


def test_a_cost_that_grows_with_associations(patient: EdgeProcess) -> None:
    """With sixteen associations an instance is no dearer than with one, and cheaper than pynetdicom's 2.7 ms."""
    before = threads(pids(patient))
    alone, together = cost(patient, 1, 160), cost(patient, 16, 10)
    assert together < min(0.0027, alone * 1.5)
    assert threads(pids(patient)) == before


def test_associations_that_are_dear_to_open(patient: EdgeProcess) -> None:
    """An association of one small instance costs far less than pynetdicom's 58 ms."""
    processes = pids(patient)
    used = busy_seconds(processes)
    for _ in range(200):
        uid = fresh_uid()
        with RawPeer(patient.port).associate() as peer:
            peer.send(store(data_set(uid), uid=uid) + RELEASE_RQ)
            assert peer.stored() == (1, 0, "")
            assert peer.receive() == RELEASE_RP
    assert (busy_seconds(processes) - used) / 200 < 0.010


def test_descriptors_past_1024(tmp_path: Path) -> None:
    """A receiver with more open connections than select() knows serves the next like the first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    try:
        with edge_process(tmp_path, edge_processes=1, **MANY) as edge, survived(edge), ExitStack() as stack:
            for many in range(101, 1102, 100):
                for _ in range(100):
                    stack.enter_context(RawPeer(edge.port))
                edge.until_serving(many, seconds=5)
            uid = fresh_uid()
            with RawPeer(edge.port).associate() as peer:
                assert sent(peer, data_set(uid), uid) == Status.SUCCESS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_sender_that_waits_for_acknowledgements(patient: EdgeProcess) -> None:
    """A peer with Nagle's algorithm on that sends a message in three writes is not made to wait 40 ms for each."""
    message, waits = echo(), []
    with RawPeer(patient.port).associate() as peer:
        for _ in range(40):
            began = time.monotonic()
            for part in (message[:20], message[20:40], message[40:]):
                peer.send(part)
            assert peer.status() == 0
            waits.append(time.monotonic() - began)
    assert sorted(waits)[20] < 0.02
