"""Conversations over real sockets: what a peer may do, what it may not, and what it is told."""

import random
import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest

from bucky.text.listeners import Listener
from edge_scp.association.admission import TOO_MANY_ASSOCIATIONS
from edge_scp.association.sink import StoreStatus
from edge_scp.association.statuses import Status
from edge_scp.association.store_service import StoreCommand
from tests.support.dimse.raw_peer import (
    ABORT,
    CT,
    ECHO_ID,
    EXPLICIT,
    RELEASE_RP,
    RELEASE_RQ,
    STORE_ID,
    RawPeer,
    command,
    echo,
    elements,
    request,
    store,
    us,
    values,
)
from tests.support.edge.upper_layer_world import UpperLayerWorld, stage
from tests.support.waiting import eventually

USER_ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"
DATA_SET = bytes(range(256)) * 40


@pytest.fixture
def upper() -> Iterator[UpperLayerWorld]:
    """A running upper layer."""
    with stage() as running:
        yield running


def test_store_echo_and_release(upper: UpperLayerWorld) -> None:
    """Two instances and an echo on one association, then a release that the peer closes."""
    with RawPeer(upper.port).associate() as peer:
        peer.send(store(DATA_SET, 1))
        assert peer.stored() == (1, 0, "")
        peer.send(echo(2))
        context_id, found = peer.response()
        assert (context_id, found[0x0120], found[0x0900], found[0x0100]) == (ECHO_ID, us(2), us(0), us(0x8030))
        peer.send(store(b"odd", 65535, uid="1.2.4"))
        assert peer.stored() == (65535, 0, "")
        peer.send(RELEASE_RQ)
        assert peer.receive() == RELEASE_RP
    assert [bytes(instance.data_set) for instance in upper.sink.instances] == [DATA_SET, b"odd"]
    assert upper.sink.instances[1].command == StoreCommand(CT, "1.2.4", CT, EXPLICIT)
    eventually(lambda: upper.connections == 0, "the connection was closed")
    assert upper.outcomes.counts == {"accepted": 1, "released": 1}


@pytest.mark.parametrize("max_pdu", [8, 9, 17, 1000, 131072])
def test_fragments_of_any_size(upper: UpperLayerWorld, max_pdu: int) -> None:
    """A sender that cuts command and data set into the smallest PDUs there can be is served like any other."""
    with RawPeer(upper.port).associate() as peer:
        peer.send(store(DATA_SET[:2001], max_pdu=max_pdu))
        assert peer.stored() == (1, 0, "")
    assert upper.sink.instances[0].data_set == DATA_SET[:2001]


def test_random_fragmentation_and_segmentation(upper: UpperLayerWorld) -> None:
    """Fifty messages of several values per PDU, empty ones among them, in TCP segments of any size."""
    chance = random.Random(8)
    sent = [chance.randbytes(chance.randrange(1, 5000)) for _ in range(50)]
    with RawPeer(upper.port) as peer:
        send_in_segments(chance, peer, request())
        assert peer.receive()[0] == 0x02
        for number, data_set in enumerate(sent):
            send_in_segments(chance, peer, b"".join(_random_pdus(chance, command_of(number), data_set)))
            assert peer.stored() == (number, 0, "")
    assert [bytes(instance.data_set) for instance in upper.sink.instances] == sent


def send_in_segments(chance: random.Random, peer: RawPeer, stream: bytes) -> None:
    """Send a stream in segments that cut headers as well as fragments."""
    at = 0
    while at < len(stream):
        size = chance.choice([1, 2, 5, 6, 7, 11, 12, 13, 500, 5000])
        peer.send(stream[at : at + size])
        at += size


def command_of(message_id: int) -> bytes:
    """Return a C-STORE-RQ command set."""
    return elements(
        (0x0002, CT.encode() + b"\0"),
        (0x0100, us(1)),
        (0x0110, us(message_id)),
        (0x0700, us(0)),
        (0x0800, us(0)),
        (0x1000, b"1.2.3\0"),
    )


def _random_pdus(chance: random.Random, command_set: bytes, data_set: bytes) -> Iterator[bytes]:
    fragments = [
        (STORE_ID, control | 2 * last, data)
        for control, data, last in (*_cut(chance, 1, command_set), *_cut(chance, 0, data_set))
    ]
    while fragments:
        count = chance.randrange(1, 5)
        yield values(*fragments[:count])
        fragments = fragments[count:]


def _cut(chance: random.Random, control: int, content: bytes) -> list[tuple[int, bytes, bool]]:
    cuts = sorted([0, len(content), *(chance.randrange(len(content) + 1) for _ in range(chance.randrange(8)))])
    parts = [content[start:end] for start, end in pairwise(cuts)]
    return [(control, part, number == len(parts) - 1) for number, part in enumerate(parts)]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (values((STORE_ID, 2, b"x")), "a data set that no command announced"),
        (values((99, 3, command(0x30))), "a context that was not accepted"),
        (values((STORE_ID, 1, b"\0\0")) + values((ECHO_ID, 1, b"\0\0")), "two commands at once"),
        (values((STORE_ID, 1, b"\0\0")) + values((STORE_ID, 0, b"\0\0")), "a data set within a command"),
        (values((STORE_ID, 3, command_of(1)), (ECHO_ID, 0, b"x")), "a data set in another context"),
        (values((STORE_ID, 3, command_of(1)), (STORE_ID, 0, b"x"), (STORE_ID, 1, b"x")), "a command in a data set"),
        (values((STORE_ID, 3, b"\x01\0\0\0")), "a cut command element"),
        (values((STORE_ID, 3, struct.pack("<HHI", 0, 2, 0xFFFFFFFF))), "an element of undefined length"),
        (values((STORE_ID, 3, struct.pack("<HHI", 8, 0x18, 0))), "an element that is no command"),
        (values((STORE_ID, 3, b"")), "an empty command"),
        (values((STORE_ID, 3, elements((0x0100, us(1)), (0x0800, us(0))))), "no message id"),
        (values((STORE_ID, 3, elements((0x0100, us(0x8001)), (0x0120, us(1))))), "a response nobody asked for"),
        (values((STORE_ID, 3, command(0x0FFF, data_set=True))), "a cancel with a data set"),
        (values(*[(STORE_ID, 1, bytes(8000))] * 9), "72 KB of command set"),
        (values((STORE_ID, 3, command_of(1)), (STORE_ID, 0, b"x")) + RELEASE_RQ, "a release within a data set"),
        (values((STORE_ID, 1, b"\0\0")) + RELEASE_RQ, "a release within a command"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages_out_of_sequence_are_aborted(upper: UpperLayerWorld, sent: bytes, why: str) -> None:
    """What makes no message ends the association by A-ABORT, at once, and leaves nothing behind."""
    with RawPeer(upper.port).associate() as peer:
        peer.send(sent)
        assert peer.receive() == USER_ABORT, why
    eventually(lambda: upper.connections == 0, "the connection was closed")
    assert upper.outcomes.counts == {"accepted": 1, "aborted": 1}
    assert all(instance.abandoned for instance in upper.sink.instances)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (values((STORE_ID, 3, command(0x0020, data_set=True))) + values((STORE_ID, 2, b"identifier")), 0x0211),
        (values((STORE_ID, 3, command(0x0021, data_set=True)), (STORE_ID, 0, b"a"), (STORE_ID, 2, b"b")), 0x0211),
        (values((STORE_ID, 3, command(0x0150))), 0x0211),
        (values((STORE_ID, 3, command(0x4242))), 0x0211),
        (values((STORE_ID, 3, command(0x0030))), 0x0122),
        (values((ECHO_ID, 3, command(0x0030))), 0x0122),
        (values((ECHO_ID, 3, command(0x0001, data_set=True))) + values((ECHO_ID, 2, b"data set")), 0x0122),
    ],
    ids=[
        "C-FIND",
        "C-MOVE",
        "N-DELETE",
        "unknown",
        "echo in a store context",
        "echo of CT",
        "store in the echo context",
    ],
)
def test_services_not_served_are_answered_so(upper: UpperLayerWorld, sent: bytes, status: int) -> None:
    """A request that is not for this listener gets its status after its data set, and the association goes on."""
    with RawPeer(upper.port).associate() as peer:
        peer.send(sent)
        assert peer.status() == status
        peer.send(echo())
        assert peer.status() == 0
    assert upper.sink.instances == []


def test_a_cancel_is_not_answered(upper: UpperLayerWorld) -> None:
    """C-CANCEL-RQ of nothing is passed over (PS3.7 §9.3.2.3)."""
    cancel = elements((0x0100, us(0x0FFF)), (0x0120, us(1)), (0x0800, us(0x0101)))
    with RawPeer(upper.port).associate() as peer:
        peer.send(values((STORE_ID, 3, cancel)) + echo(5))
        assert peer.response()[1][0x0120] == us(5)


def test_a_store_without_a_data_set_goes_to_the_sink(upper: UpperLayerWorld) -> None:
    """A C-STORE-RQ that announces no data set is for the sink to refuse, not a reason to wait."""
    upper.sink.answer = StoreStatus(Status.CANNOT_UNDERSTAND, "no data set")
    with RawPeer(upper.port).associate() as peer:
        peer.send(values((STORE_ID, 3, command(0x0001))))
        assert peer.stored() == (1, 0xC000, "no data set")
    assert upper.sink.instances[0].data_set == b""


def test_a_request_sent_early_waits_for_the_answer_to_the_last(upper: UpperLayerWorld) -> None:
    """A peer that does not wait is served in order, one at a time; what it sent meanwhile is not lost."""
    upper.sink.holding = True
    with RawPeer(upper.port).associate() as peer:
        peer.send(store(DATA_SET, 1) + store(DATA_SET, 2) + echo(3))
        eventually(lambda: any(instance.finished for instance in upper.sink.instances), "the first is complete")
        assert len(upper.sink.instances) == 1
        upper.sink.holding = False
        upper.call(upper.sink.instances[0].answer)
        assert [peer.stored()[0], peer.stored()[0]] == [1, 2]
        assert peer.status() == 0


def test_a_peer_that_never_waits_is_held_back(upper: UpperLayerWorld) -> None:
    """Megabytes sent ahead of an answer stay in the peer's own buffers, not in our memory."""
    upper.sink.holding = True
    with RawPeer(upper.port).associate() as peer:
        peer.send(store(DATA_SET, 1))
        peer.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            peer.send(store(bytes(60000), 2, max_pdu=131072) * 1000)
        assert len(upper.sink.instances) == 1
        assert [len(connection._held) <= 256 * 1024 for connection in upper.acceptor._open] == [True]


def test_the_next_message_in_the_same_pdu_waits(upper: UpperLayerWorld) -> None:
    """A message that begins in the PDU in which another ends is served when that one was answered."""
    upper.sink.holding = True
    with RawPeer(upper.port).associate() as peer:
        peer.send(values((STORE_ID, 3, command_of(1)), (STORE_ID, 2, b"x"), (STORE_ID, 3, command_of(2))))
        peer.send(values((STORE_ID, 2, b"y")))
        eventually(lambda: [one.finished for one in upper.sink.instances] == [True], "the first is complete")
        upper.call(upper.sink.instances[0].answer)
        assert peer.stored()[:2] == (1, 0)
        eventually(lambda: [one.finished for one in upper.sink.instances] == [True, True], "the second is complete")
        upper.call(upper.sink.instances[1].answer)
        assert peer.stored()[:2] == (2, 0)
        assert [bytes(one.data_set) for one in upper.sink.instances] == [b"x", b"y"]


def test_a_release_during_an_operation_comes_after_its_response(upper: UpperLayerWorld) -> None:
    """A-RELEASE-RQ while the sink works: first the C-STORE-RSP, then A-RELEASE-RP (Sta8)."""
    upper.sink.holding = True
    with RawPeer(upper.port).associate() as peer:
        peer.send(store(DATA_SET) + RELEASE_RQ)
        eventually(lambda: [one.finished for one in upper.sink.instances] == [True], "the instance is complete")
        upper.call(upper.sink.instances[0].answer)
        assert peer.stored() == (1, 0, "")
        assert peer.receive() == RELEASE_RP


@pytest.mark.parametrize("how", ["abort", "close"])
def test_a_peer_that_goes_while_its_answer_is_pending_gets_none(upper: UpperLayerWorld, how: str) -> None:
    """The instance was complete: it is neither abandoned nor answered, and the answer harms nobody."""
    upper.sink.holding = True
    with RawPeer(upper.port).associate() as peer:
        peer.send(store(DATA_SET))
        eventually(lambda: [one.finished for one in upper.sink.instances] == [True], "the instance is complete")
        if how == "abort":
            peer.send(ABORT)
            assert peer.closed()
    eventually(lambda: upper.connections == 0, "the connection was closed")
    upper.call(upper.sink.instances[0].answer)
    assert upper.outcomes.counts == {"accepted": 1, "aborted": 1}


@pytest.mark.parametrize("how", ["abort", "close", "reset"])
@pytest.mark.parametrize("part", range(1, 12))
def test_an_instance_cut_short_is_abandoned(upper: UpperLayerWorld, how: str, part: int) -> None:
    """Wherever the peer goes away, what it began is abandoned once and the connection is closed."""
    stream = store(DATA_SET, max_pdu=2048)
    with RawPeer(upper.port).associate() as peer:
        peer.send(stream[: len(stream) * part // 12])
        if how == "abort":
            # Within a PDU these bytes are data: it is the close that ends it.
            peer.send(ABORT)
        elif how == "reset":
            peer.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))
    eventually(lambda: upper.connections == 0, "the connection was closed")
    assert all(instance.abandoned for instance in upper.sink.instances)
    assert upper.outcomes.counts == {"accepted": 1, "aborted": 1}


@pytest.mark.parametrize(
    ("listener", "sent", "answer"),
    [
        (Listener(port=0), request(called="OTHER"), (1, 1, 7)),
        (Listener(port=0, allow_aets=("CT1",)), request(), (1, 1, 3)),
        (Listener(port=0), request().replace(b"TEST", b"\xffEST"), (1, 1, 3)),
        (Listener(port=0), request().replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2"), (1, 1, 2)),
        (Listener(port=0), request()[:6] + b"\0\x02" + request()[8:], (1, 2, 2)),
    ],
    ids=["called AE title", "calling AE title", "no AE title", "application context", "protocol version"],
)
def test_rejections_say_why(listener: Listener, sent: bytes, answer: tuple[int, int, int]) -> None:
    """Each refusal has its own result, source and reason (PS3.8 Table 9-21)."""
    with stage(listener) as upper, RawPeer(upper.port) as peer:
        peer.send(sent)
        assert peer.receive() == b"\x03\0\0\0\0\x04\0" + bytes(answer)


def test_a_full_listener_rejects_as_transient(upper: UpperLayerWorld) -> None:
    """Whoever comes when there is no room is told that it may come again (local-limit-exceeded)."""
    upper.obstacle = TOO_MANY_ASSOCIATIONS
    with RawPeer(upper.port) as peer:
        peer.send(request())
        assert peer.receive() == b"\x03\0\0\0\0\x04\0\x02\x03\x02"
        upper.obstacle = None
        RawPeer(upper.port).associate().socket.close()


def test_responses_fit_the_peers_maximum_length(upper: UpperLayerWorld) -> None:
    """A peer that takes PDUs of 30 bytes gets its response in several."""
    small = request().replace(struct.pack(">BxHI", 0x51, 4, 16384), struct.pack(">BxHI", 0x51, 4, 30))
    with RawPeer(upper.port) as peer:
        peer.send(small)
        assert peer.receive()[0] == 0x02
        peer.send(store(DATA_SET))
        received = b""
        while True:
            pdu = peer.receive()
            assert len(pdu) - 6 <= 30
            received += pdu[12:]
            if pdu[11] & 2:
                break
    assert b"1.2.3\0" in received


def test_drain_releases_the_idle_and_aborts_the_others(upper: UpperLayerWorld) -> None:
    """When the edge stops, an idle association is asked to release and one in the middle of a data set is aborted."""
    with RawPeer(upper.port).associate() as idle, RawPeer(upper.port).associate() as sending, RawPeer(upper.port):
        sending.send(store(DATA_SET)[:3000])
        eventually(lambda: len(upper.sink.instances) == 1, "the data set began")
        drained = upper.drain(0.1)
        assert idle.receive() == RELEASE_RQ
        idle.send(RELEASE_RP)
        assert idle.closed()
        assert sending.receive() == USER_ABORT
        sending.socket.close()
        assert drained.result(5) is False
    assert upper.connections == 0
    assert upper.sink.instances[0].abandoned
    assert upper.outcomes.counts == {"accepted": 2, "released": 1, "aborted": 1, "failed": 1}


def test_drain_waits_for_associations_that_end_by_themselves(upper: UpperLayerWorld) -> None:
    """An association that finishes within the time is not cut short."""
    with RawPeer(upper.port).associate() as peer:
        drained = upper.drain(5)
        peer.send(store(DATA_SET))
        assert peer.stored() == (1, 0, "")
        peer.send(RELEASE_RQ)
        assert peer.receive() == RELEASE_RP
        peer.socket.close()
        assert drained.result(5) is True
