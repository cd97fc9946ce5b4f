"""The fast path does what Python does, only sooner: whatever is said, and whatever fails."""

import errno
import resource
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bucky.dicom.identity import read_identity
from bucky.dimse.messages import MAX_RECEIVED
from bucky.errors import InvalidInstance
from bucky.text.listeners import Listener
from edge_scp.receive import fast_path
from edge_scp.receive.instance import SpooledInstance
from tests.support.dimse.raw_peer import ABORT, CT, EXPLICIT, IMPLICIT, RELEASE_RP, RELEASE_RQ, RawPeer, request, values
from tests.support.edge.edge_process import ListenerAlone, listener_alone
from tests.support.edge.lane_talk import (
    BIG_ENDIAN_ID,
    DEFLATED_ID,
    EXPLICIT_ID,
    IMPLICIT_ID,
    associated,
    data_set,
    echo,
    element,
    fragments,
    hold,
    store,
    store_command,
    uid,
)
from tests.support.edge.native_part import native, needs_native_part
from tests.support.waiting import eventually

pytestmark = needs_native_part

UID = "1.2.3.4"
SEQUENCE = element(0x00081115, b"SQ", b"", length=0xFFFFFFFF) + (
    struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    + element(0x0020000D, b"UI", uid("9.9.9"))
    + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
)
PRIVATE = element(0x00090010, b"UN", bytes(70_000))
UNKNOWN_VR = struct.pack("<HH2sH", 0x0009, 0x1001, b"??", 4) + b"ABCD" + element(0x00091002, b"ZZ", b"ABCD")
NO_VR = struct.pack("<HHI", 0x0009, 0x1001, 4) + b"ABCD"
UNKNOWN_ITEMS = element(0x00091001, b"UN", b"", length=0xFFFFFFFF) + (
    struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    + element(0x00091002, b"LO", b"AB")
    + struct.pack("<HHI", 0xFFFE, 0xE00D, 8)
    + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
)


Ways = tuple[ListenerAlone, ListenerAlone, ListenerAlone]


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """A receiver with the fast path, one whose fast path has slots too, and one without."""
    structlog.configure(processors=[_drop])
    with ExitStack() as running:
        yield (
            running.enter_context(listener_alone(tmp_path_factory.mktemp("with"))),
            running.enter_context(listener_alone(tmp_path_factory.mktemp("slots"), slots=16)),
            running.enter_context(listener_alone(tmp_path_factory.mktemp("without"), edge_fast_path=False)),
        )
    structlog.reset_defaults()


def _drop(_logger: object, _level: str, _line: object) -> Any:
    raise structlog.DropEvent


def deflated(data: bytes) -> bytes:
    """Return a data set as its deflated transfer syntax has it."""
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


USUAL = store(EXPLICIT_ID, data_set(UID), UID)
COMMAND = values((EXPLICIT_ID, 3, store_command(UID, 1)))
# Each is a list of what is said after the last was answered.
TALKS = {
    "usual": [USUAL],
    "several": [USUAL, store(IMPLICIT_ID, data_set("1.2.5", implicit=True), "1.2.5", 2), USUAL],
    "with others between": [USUAL, echo(2), USUAL, RELEASE_RQ],
    "not waiting": [USUAL + store(IMPLICIT_ID, data_set("1.2.5", implicit=True), "1.2.5", 2) + echo(3) + USUAL],
    "too long for a slot": [store(EXPLICIT_ID, data_set(UID, pixels=2_600_000), UID, size=60_000), USUAL],
    "just too long for a slot": [store(EXPLICIT_ID, data_set(UID, pixels=1_036_000), UID, size=60_000), USUAL],
    "in one value": [store(EXPLICIT_ID, data_set(UID, pixels=120_000), UID, size=125_000)],
    "in tiny fragments": [store(EXPLICIT_ID, data_set(UID), UID, size=7)],
    "headers by themselves": [
        COMMAND + values((EXPLICIT_ID, 0, data_set(UID)[:400])),
        values((EXPLICIT_ID, 2, data_set(UID)[400:]))[:12],
        values((EXPLICIT_ID, 2, data_set(UID)[400:]))[12:],
    ],
    "in one PDU with its command": [values((EXPLICIT_ID, 3, store_command(UID, 1)), (EXPLICIT_ID, 2, data_set(UID)))],
    "many values in a PDU": [
        COMMAND
        + values(*((EXPLICIT_ID, 0, data_set(UID)[at : at + 50]) for at in range(0, len(data_set(UID)), 50)))
        + values((EXPLICIT_ID, 2, b""))
    ],
    "more in the last PDU": [COMMAND + values((EXPLICIT_ID, 2, data_set(UID)), (EXPLICIT_ID, 0, b"more")), USUAL],
    "the next in the last PDU": [
        COMMAND
        + values((EXPLICIT_ID, 2, data_set(UID)), (EXPLICIT_ID, 3, store_command(UID, 2)))
        + fragments(EXPLICIT_ID, data_set(UID), 9000)
    ],
    "a few bytes more in the last PDU": [
        COMMAND
        + struct.pack(">BxIIBB", 4, len(data_set(UID)) + 10, len(data_set(UID)) + 2, 1, 2)
        + data_set(UID)
        + b"more"
    ],
    "big endian": [store(BIG_ENDIAN_ID, data_set(UID), UID)],
    "deflated": [store(DEFLATED_ID, deflated(data_set(UID)), UID)],
    "a sequence before the UIDs": [store(EXPLICIT_ID, data_set(UID, before=SEQUENCE), UID)],
    "UIDs far from the beginning": [store(EXPLICIT_ID, data_set(UID, before=PRIVATE), UID)],
    "an unknown VR before the UIDs": [store(EXPLICIT_ID, data_set(UID, before=UNKNOWN_VR), UID), USUAL],
    "no VR before the UIDs": [store(EXPLICIT_ID, data_set(UID, before=NO_VR), UID), USUAL],
    "explicit items of unknown VR": [store(EXPLICIT_ID, data_set(UID, before=UNKNOWN_ITEMS), UID), USUAL],
    "a UID padded in front": [store(EXPLICIT_ID, data_set(" " + UID), " " + UID), USUAL],
    "zeros before the UIDs": [store(EXPLICIT_ID, bytes(64) + data_set(UID), UID), USUAL],
    "another instance than announced": [store(EXPLICIT_ID, data_set("1.2.6"), UID), USUAL],
    "no UIDs": [store(EXPLICIT_ID, b"", UID), USUAL],
    "no data set": [store(EXPLICIT_ID, b"\0" * 30, UID)],
    "another SOP class": [
        values((EXPLICIT_ID, 3, store_command(UID, 1, sop_class="1.2.840.10008.5.1.4.1.1.4")))
        + fragments(EXPLICIT_ID, data_set(UID), 9000),
        USUAL,
    ],
    "a path for a UID": [store(EXPLICIT_ID, data_set(".."), "..")],
    "an abort in between": [USUAL[:-300], ABORT],
    "a release in between": [USUAL[:-300], RELEASE_RQ],
    "a release before the data set": [COMMAND, RELEASE_RQ],
    "a release answered that nobody asked for": [USUAL, RELEASE_RP],
    "another context's data": [
        COMMAND + values((EXPLICIT_ID, 0, data_set(UID)[:200])) + values((IMPLICIT_ID, 2, b"rest"))
    ],
    "a command in the data set": [
        COMMAND + values((EXPLICIT_ID, 0, data_set(UID)[:200])) + values((EXPLICIT_ID, 3, store_command(UID, 2)))
    ],
    "too long a PDU": [COMMAND + values((EXPLICIT_ID, 0, data_set(UID))) + struct.pack(">BxI", 4, 1 << 30)],
    "a value longer than its PDU": [
        COMMAND + values((EXPLICIT_ID, 0, data_set(UID))) + struct.pack(">BxIIBB", 4, 100, 200, EXPLICIT_ID, 0)
    ],
    "a context that was not accepted": [store(11, data_set(UID), UID)],
    "half of it": [USUAL[:-100]],
}


@pytest.mark.parametrize("chunk", [10**9, 1000, 61])
@pytest.mark.parametrize("talk", TALKS.values(), ids=list(TALKS))
def test_the_same_is_answered_and_kept(ways: Ways, talk: list[bytes], chunk: int) -> None:
    """A conversation ends the same with the fast path and without: the same answers, the same files."""
    in_files, in_slots, without = (hold(alone, talk, chunk) for alone in ways)
    assert in_files == without
    assert in_slots == without


def test_what_is_kept_is_what_was_sent(ways: Ways) -> None:
    """The comparison is of something: usual instances are answered, and kept byte for byte."""
    for alone in ways:
        outcome = hold(alone, TALKS["several"], 10**9)
        assert len(outcome.kept) == 3
        assert sum(file.endswith(data_set(UID)) for file in outcome.kept) == 2
        assert [[pdu[0] for pdu in turn] for turn in outcome.answered] == [[0x04]] * 3


@given(st.sampled_from(list(TALKS.values())), st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_conversations_end_the_same(ways: Ways, talk: list[bytes], data: st.DataObject) -> None:
    """So does one with bytes changed, cut out or put in, wherever that is."""
    which = data.draw(st.integers(0, len(talk) - 1))
    damaged = bytearray(talk[which])
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    chunk = data.draw(st.sampled_from([10**9, 4096, 333]))
    said = [*talk[:which], bytes(damaged), *talk[which + 1 :]]
    in_files, in_slots, without = (hold(alone, said, chunk) for alone in ways)
    assert in_files == without, (in_files.answered, without.answered)
    assert in_slots == without, (in_slots.answered, without.answered)


some_elements = st.lists(
    st.builds(
        element,
        st.sampled_from([0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00080005, 0x00090010, 0xFFFEE000]),
        st.sampled_from([b"UI", b"UN", b"SQ", b"LO", b"OB", b"??", b"ZZ", b"\0\0"]),
        st.sampled_from([uid(CT), uid(UID), b"", b"x" * 80, b"1.2.\0\0", b"1 2 ", b" 1.2.3"]),
        implicit=st.booleans(),
        length=st.sampled_from([None, None, None, 0xFFFFFFFF, 3]),
    ),
    max_size=8,
).map(b"".join)


@given(some_elements, st.booleans(), st.integers(0, 400))
@example(data_set(UID, before=SEQUENCE), False, 0)
@settings(max_examples=1500, deadline=None)
def test_the_fast_path_finds_no_other_identity(data: bytes, implicit: bool, cut: int) -> None:
    """Where the fast path finds UIDs in whatever bytes, they are those that Python finds."""
    data = data[: max(0, len(data) - cut)] if cut < len(data) else data
    found = native.read_identity(data, implicit)
    if found is not None:
        assert tuple(found) == tuple(read_identity(data, IMPLICIT if implicit else EXPLICIT))
        if not implicit:
            # Of a vendor's own transfer syntax the fast path takes explicit VRs, and Python finds out the same.
            assert tuple(found) == tuple(read_identity(data, "1.2.840.113619.5.2"))


def test_it_finds_the_identity() -> None:
    """And it does find them where they are, after sequences too, and nothing in half of the bytes."""
    usual = data_set(UID, before=SEQUENCE)
    assert native.read_identity(usual, False) == [CT, UID, "1.2.3", "1.2.3.1"]
    assert native.read_identity(data_set(UID, implicit=True), True) == [CT, UID, "1.2.3", "1.2.3.1"]
    assert native.read_identity(usual[:90], False) is None
    with pytest.raises(InvalidInstance):
        read_identity(usual[:90], EXPLICIT)


@pytest.mark.parametrize("on_fast_path", [True, False])
def test_an_instance_says_by_which_listener_it_came(tmp_path: Path, on_fast_path: bool) -> None:
    """Rules can tell listeners apart: by name, or else by AE title and port."""
    for name, label in (("radiology", "radiology"), ("", "BUCKY:0")):
        folder = tmp_path / label
        folder.mkdir()
        with listener_alone(folder, Listener(port=0, name=name), edge_fast_path=on_fast_path) as alone:
            with associated(alone) as peer:
                peer.send(USUAL)
                assert peer.status() == 0
            assert [record.stored("bucket").listener for record, _ in alone.records()] == [label]


def test_the_usual_never_reaches_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain C-STORE is served by the fast path alone; so the other tests here do test it."""

    def unused(*_arguments: object) -> None:
        raise AssertionError("an instance came to Python")

    monkeypatch.setattr(SpooledInstance, "__init__", unused)
    with listener_alone(tmp_path) as alone:
        assert len(hold(alone, TALKS["several"], 1000).kept) == 3


def test_it_logs_what_python_logs(ways: Ways) -> None:
    """The canonical line of an instance is the same, whoever writes it: names, types and all that does not vary."""
    seen = []
    for alone in ways:
        with structlog.testing.capture_logs() as lines:
            assert len(hold(alone, [USUAL], 10**9).kept) == 1
        (line,) = [line for line in lines if line["event"] == "instance.acknowledged"]
        assert 0 <= line.pop("duration_ms") < 60_000
        assert len(line.pop("association_id")) > 8
        assert len(line.pop("traceparent")) == 55
        seen.append(line)
    assert seen[0] == seen[1] == seen[2]


def test_without_the_fast_path_python_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the native code was not built, everything is served all the same."""
    monkeypatch.setattr(fast_path, "_express", None)
    with listener_alone(tmp_path) as alone:
        assert alone.fast_path is None
        assert len(hold(alone, TALKS["several"], 1000).kept) == 3


def test_a_full_spool_refuses_and_gives_room_back(tmp_path: Path) -> None:
    """An instance for which there is no room any more is refused at its end, and the next small one is kept."""
    with listener_alone(tmp_path, spool_max_bytes=400_000) as alone:
        with associated(alone) as peer:
            peer.send(store(EXPLICIT_ID, data_set(UID, pixels=600_000), UID))
            assert peer.status() == 0xA700
            assert alone.world.counters.held_bytes == 0
            peer.send(USUAL)
            assert peer.status() == 0
        assert len(alone.files()) == 1


def test_a_failing_disk_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    """An instance that the disk will not take is refused with the disk's reason; the association goes on."""
    with listener_alone(tmp_path) as alone, associated(alone) as peer:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
        try:
            peer.send(store(EXPLICIT_ID, data_set(UID, pixels=600_000), UID))
            message_id, status, comment = peer.stored()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (message_id, status) == (1, 0xA700)
        assert "File too large" in comment
        assert (alone.world.counters.held_bytes, alone.world.ready()) == (0, [])
        peer.send(USUAL)
        assert peer.status() == 0


def test_a_failed_sync_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk cannot say that an instance is safe, its sender is told to send again, and nothing is kept."""

    def failing(_descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with listener_alone(tmp_path) as alone, associated(alone) as peer:
        with monkeypatch.context() as patch:
            patch.setattr(alone.world.disk, "sync_file_system", failing)
            peer.send(USUAL)
            assert peer.stored()[1:] == (0xA700, "The spool could not be synced; send again later")
        assert (alone.world.counters.held_bytes, alone.world.ready()) == (0, [])
        peer.send(USUAL)
        assert peer.status() == 0


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """A peer that resets in the middle of an instance leaves no file, no bytes counted and no connection."""
    with listener_alone(tmp_path) as alone:
        with associated(alone) as peer:
            peer.send(store(EXPLICIT_ID, data_set(UID, pixels=600_000), UID)[:400_000])
            eventually(lambda: alone.world.counters.held_bytes > 300_000, "it arrives")
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: alone.connections == 0, "the connection is over")
        assert (alone.world.counters.held_bytes, alone.instances) == (0, 0)


def test_a_slow_data_set_is_aborted(tmp_path: Path) -> None:
    """A sender of a few bytes a second holds no place on the fast path either."""
    with listener_alone(tmp_path, edge_idle_seconds=0.4) as alone, associated(alone) as peer:
        peer.send(store(EXPLICIT_ID, data_set(UID, pixels=100_000), UID)[:20_000])
        assert peer.receive()[:1] == b"\x07"
        assert alone.world.counters.held_bytes == 0


def test_an_idle_association_is_aborted(tmp_path: Path) -> None:
    """So is one that has stored something and says nothing more."""
    with listener_alone(tmp_path, edge_idle_seconds=0.4) as alone, associated(alone) as peer:
        peer.send(USUAL)
        assert peer.status() == 0
        assert peer.receive()[:1] == b"\x07"


def test_answers_that_nobody_reads_wait(tmp_path: Path) -> None:
    """A peer that sends much ahead and reads nothing gets every answer in the end, in order, and no memory is lost."""
    with listener_alone(tmp_path) as alone, RawPeer(alone.port) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.associate()
        count = 400
        for number in range(count):
            peer.send(store(EXPLICIT_ID, data_set(UID, pixels=10), UID, number + 1))
        assert [peer.stored()[:2] for _ in range(count)] == [(number + 1, 0) for number in range(count)]
        assert alone.instances == count


def test_draining_asks_the_idle_to_release(tmp_path: Path) -> None:
    """A receiver that stops asks whom it has nothing in hand with to release, from the fast path too."""
    with listener_alone(tmp_path) as alone:
        with associated(alone) as peer:
            peer.send(USUAL)
            assert peer.status() == 0
            draining = alone.drain(0.1)
            assert peer.receive() == RELEASE_RQ
            peer.send(RELEASE_RP)
            assert peer.closed()
        assert draining.result(5) is False


def test_draining_lets_an_instance_finish(tmp_path: Path) -> None:
    """What is on its way when a receiver stops is received and answered first."""
    talk = store(EXPLICIT_ID, data_set(UID, pixels=300_000), UID)
    with listener_alone(tmp_path) as alone:
        with associated(alone) as peer:
            peer.send(talk[:100_000])
            eventually(lambda: alone.world.counters.held_bytes > 50_000, "it arrives")
            draining = alone.drain(5)
            peer.send(talk[100_000:])
            assert peer.status() == 0
            peer.send(RELEASE_RQ)
            assert peer.receive() == RELEASE_RP
        assert draining.result(5) is True
        assert alone.instances == 1


def test_short_pdus_are_for_python(tmp_path: Path) -> None:
    """A peer that takes only short PDUs gets its responses in several, which the fast path does not do."""
    asked = request().replace(struct.pack(">BBHI", 0x51, 0, 4, MAX_RECEIVED), struct.pack(">BBHI", 0x51, 0, 4, 64))
    with listener_alone(tmp_path) as alone, RawPeer(alone.port) as peer:
        peer.send(asked)
        assert peer.receive()[0] == 0x02
        peer.send(USUAL)
        assert all(len(peer.receive()) <= 70 for _ in range(2))
