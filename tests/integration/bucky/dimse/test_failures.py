"""What the sender makes of peers that refuse, fail, abort, hang or talk nonsense: real sockets, all of it."""

import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from bucky.dimse import Outcome, Outgoing, Peer, store_all
from bucky.dimse.association_items import item
from bucky.dimse.batch import contexts_for
from bucky.errors import NotFound, StoreUnavailable
from bucky.runtime.ports import free_port
from local_stack.destination import Destination, ReceivedRequest, ScriptedAnswer
from tests.support.dimse.dimse_proxy import DimseProxy
from tests.support.dimse.raw_peer import elements, us, values

CT, MR, ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.88.22"
EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"


def instance(number: int, sop_class: str = CT, syntax: str = EXPLICIT, size: int = 1000) -> Outgoing:
    """Return an instance of so many bytes."""
    return Outgoing(sop_class, f"1.2.3.{number}", syntax, lambda: io.BytesIO(bytes(size)))


def peer_of(destination: Destination, timeout: float = 10.0) -> Peer:
    """Return the way to a destination."""
    return Peer("DEMO", "127.0.0.1", destination.port, timeout=timeout)


@contextmanager
def fake_peer(talk: Callable[[socket.socket], None], timeout: float = 0.5) -> Iterator[Peer]:
    """Run a peer that speaks to each connection as `talk` says, until it returns."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Peer("FAKE", "127.0.0.1", server.getsockname()[1], timeout=timeout)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_only_what_the_peer_did_not_accept_is_refused(tmp_path: Path) -> None:
    """One SOP class a destination does not take must not stop the others of the batch."""
    with Destination(tmp_path, refused_sop_classes=[MR], transfer_syntaxes=[EXPLICIT]) as destination:
        results = store_all(peer_of(destination), [instance(1), instance(2, MR), instance(3, CT, JPEG), instance(4)])
    assert [result.outcome for result in results] == [
        Outcome.STORED,
        Outcome.REFUSED,
        Outcome.REFUSED,
        Outcome.STORED,
    ]
    assert results[1].reason == "the destination does not accept MR Image Storage"
    assert results[2].reason == ("the destination does not accept CT Image Storage in JPEG Baseline (Process 1)")


@pytest.mark.parametrize(
    ("status", "outcome", "words"),
    [
        (0xB000, Outcome.WARNED, "0xB000, coercion of data elements"),
        (0xA700, Outcome.UNAVAILABLE, "0xA700, out of resources"),
        (0xA900, Outcome.REFUSED, "0xA900, data set does not match SOP class"),
        (0xC001, Outcome.REFUSED, "0xC001, cannot understand"),
        (0x0122, Outcome.REFUSED, "0x0122, SOP class not supported"),
    ],
)
def test_the_answer_of_the_peer_decides(tmp_path: Path, status: int, outcome: Outcome, words: str) -> None:
    """Each instance ends as its own answer says, with the answer in words and the peer's comment apart."""

    def script(received: ReceivedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(status, "because of DOE^JANE") if received.number == 2 else ScriptedAnswer()

    with Destination(tmp_path, script=script) as destination:
        results = store_all(peer_of(destination), [instance(1), instance(2), instance(3)])
    assert [result.outcome for result in results] == [Outcome.STORED, outcome, Outcome.STORED]
    assert results[1].reason == f"the destination answered {words}"
    assert (results[1].status, results[1].comment) == (status, "because of DOE^JANE")


def test_an_abort_costs_one_instance_its_turn_and_no_other(tmp_path: Path) -> None:
    """What was answered stays answered, what made the peer abort waits, and what comes after still goes."""

    def script(received: ReceivedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(abort=received.sop_instance_uid == "1.2.3.3")

    with Destination(tmp_path, script=script) as destination:
        results = store_all(peer_of(destination), [instance(number) for number in range(6)])
    outcomes = [result.outcome for result in results]
    assert outcomes == [Outcome.STORED] * 3 + [Outcome.UNAVAILABLE] + [Outcome.STORED] * 2
    assert results[3].reason.endswith("aborted the association")


def test_a_peer_that_always_aborts_is_left_alone_after_three(tmp_path: Path) -> None:
    """A peer in trouble must not be called once per instance of a batch."""
    with Destination(tmp_path, script=lambda _received: ScriptedAnswer(abort=True)) as destination:
        results = store_all(peer_of(destination), [instance(number) for number in range(50)])
    assert {result.outcome for result in results} == {Outcome.UNAVAILABLE}
    assert destination.count == 3


def test_nobody_there_leaves_everything_to_be_tried_again() -> None:
    """A destination that is switched off loses nothing."""
    results = store_all(Peer("PACS", "127.0.0.1", free_port()), [instance(1), instance(2)], associations=2)
    assert {result.outcome for result in results} == {Outcome.UNAVAILABLE}
    assert "cannot be reached: Connection refused" in results[0].reason


@pytest.mark.parametrize(
    "peer", [Peer("PACS", "a..b", 104), Peer("PACS", "no.such.host.invalid", 104), Peer(" ", "h", 1)]
)
def test_an_impossible_address_leaves_everything_to_be_tried_again(peer: Peer) -> None:
    """A mistake in a destination's address is put right by an administrator: nothing is lost until then."""
    (result,) = store_all(peer, [instance(1)])
    assert result.outcome is Outcome.UNAVAILABLE
    assert "cannot be" in result.reason


def test_a_rejected_association_leaves_everything_to_be_tried_again(tmp_path: Path) -> None:
    """A wrong AE title is put right by an administrator: until then everything waits, and the reason shows."""
    with Destination(tmp_path, aet="OTHER") as destination:
        results = store_all(peer_of(destination), [instance(1), instance(2)])
    assert {result.outcome for result in results} == {Outcome.UNAVAILABLE}
    assert "Called AE title not recognised" in results[0].reason
    assert results[0].retry_after == 30.0


def test_a_peer_that_never_answers_is_given_up_in_time() -> None:
    """A hung PACS must not hold a sender for ever."""
    finished = threading.Event()

    def talk(_connection: socket.socket) -> None:
        finished.wait(10)

    with fake_peer(talk) as peer:
        results = store_all(peer, [instance(1), instance(2)])
        finished.set()
    assert {result.outcome for result in results} == {Outcome.UNAVAILABLE}
    assert "did not answer within 0.5 s" in results[0].reason


def test_a_peer_slow_to_store_is_given_up_in_time(tmp_path: Path) -> None:
    """A PACS that takes an instance and never answers for it must not hold a sender for ever."""
    with Destination(tmp_path, script=lambda _received: ScriptedAnswer(delay=20)) as destination:
        results = store_all(peer_of(destination, timeout=0.5), [instance(1)])
    assert results[0].outcome is Outcome.UNAVAILABLE
    assert "did not answer within 0.5 s" in results[0].reason


def test_a_peer_that_stops_reading_is_given_up_in_time() -> None:
    """A PACS that hangs in the middle of a large instance must not hold a sender for ever."""
    finished = threading.Event()

    def talk(connection: socket.socket) -> None:
        request = A_ASSOCIATE_RQ()
        request.decode(connection.recv(65536))
        primitive = request.to_primitive()
        for context in primitive.presentation_context_definition_list:
            context.result = 0
        primitive.presentation_context_definition_results_list = primitive.presentation_context_definition_list
        primitive.result = 0
        answer = A_ASSOCIATE_AC()
        answer.from_primitive(primitive)
        connection.sendall(answer.encode())
        finished.wait(10)

    with fake_peer(talk, timeout=2.0) as peer:
        (result,) = store_all(peer, [instance(1, size=64 * 1024 * 1024)])
        finished.set()
    assert result.outcome is Outcome.UNAVAILABLE
    assert result.reason.endswith("took no data for 2 s")


def test_a_slow_line_takes_its_time(tmp_path: Path) -> None:
    """An instance that needs longer than the timeout to get through is delivered: what moves is not hung."""
    with Destination(tmp_path) as destination:
        line = DimseProxy(lambda: socket.create_connection(("127.0.0.1", destination.port)))
        line.open()
        line.crawl(40_000)
        results = store_all(Peer("DEMO", "127.0.0.1", line.port, timeout=2), [instance(1, size=120_000), instance(2)])
        line.close()
    assert [result.outcome for result in results] == [Outcome.STORED] * 2
    assert results[0].seconds > 2


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x02\x00\x00\x00\x00\x02\x00\x00",
        b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x01",
        b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00",
        b"\x04\x00\x00\x00\x00\x00",
        b"\x03\x00\x00\x00\x00\x00",
        b"\x02\x00\xff\xff\xff\xff",
        b"\x02",
        b"",
    ],
)
def test_a_peer_that_does_not_speak_dicom_loses_nothing(nonsense: bytes) -> None:
    """A port that belongs to another program is a destination in trouble, not an error of ours."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(nonsense)

    with fake_peer(talk) as peer:
        (result,) = store_all(peer, [instance(1)])
    assert result.outcome is Outcome.UNAVAILABLE
    assert result.reason.startswith("FAKE@127.0.0.1:")


def test_a_peer_that_says_odd_things_of_itself_is_delivered_to() -> None:
    """A long version name and zeroed AE titles in an A-ASSOCIATE-AC, and a response that lacks what is understood."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        context = item(0x21, b"\x01\0\0\0" + item(0x40, EXPLICIT.encode() + b"\0"))
        user = item(0x50, item(0x51, struct.pack(">I", 0)) + item(0x52, b"1.2.VENDOR") + item(0x55, b"V" * 30))
        body = struct.pack(">H", 1) + bytes(66) + item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
        connection.sendall(struct.pack(">BxI", 2, len(body)) + body)
        received = b""
        while b"END" not in received:
            received += connection.recv(65536)
        connection.sendall(values((1, 3, elements((0x0100, us(0x8001)), (0x0120, us(1)), (0x0900, us(0))))))
        connection.recv(65536)

    with fake_peer(talk, timeout=10.0) as peer:
        (result,) = store_all(peer, [Outgoing(CT, "1.2.3", EXPLICIT, lambda: io.BytesIO(bytes(1000) + b"END "))])
    assert result.outcome is Outcome.STORED


def test_more_than_128_contexts_take_several_associations(tmp_path: Path) -> None:
    """A study of many kinds is sent whole, though one association proposes at most 128 contexts."""
    items = [
        instance(number, sop_class, syntax)
        for number, (sop_class, syntax) in enumerate(
            (sop_class, syntax) for sop_class in (CT, MR, ENHANCED_SR) for syntax in ALL_TRANSFER_SYNTAXES[:45]
        )
    ]
    assert len({context for item in items for context in contexts_for(item)}) > 128
    with Destination(tmp_path) as destination:
        results = store_all(peer_of(destination), items)
    assert {result.outcome for result in results} == {Outcome.STORED}
    assert len(list(tmp_path.glob("*/*.dcm"))) == len(items)


def test_an_object_that_cannot_be_had_does_not_cost_the_others_theirs(tmp_path: Path) -> None:
    """A store that fails for one object fails that delivery alone, and says whether it may come back."""

    def missing() -> io.BytesIO:
        raise NotFound("the object store has no such object")

    def unavailable() -> io.BytesIO:
        raise StoreUnavailable("the object store answered SlowDown", 3.0)

    items = [
        Outgoing(CT, "1.2.1", EXPLICIT, missing),
        Outgoing(CT, "1.2.2", EXPLICIT, unavailable),
        instance(3),
    ]
    with Destination(tmp_path) as destination:
        results = store_all(peer_of(destination), items)
    assert [result.outcome for result in results] == [Outcome.REFUSED, Outcome.UNAVAILABLE, Outcome.STORED]
    assert results[1].retry_after == 3.0


class Breaking(io.RawIOBase):
    """A stream whose disk fails after the first bytes."""

    def read(self, size: int = -1) -> bytes:
        """Return bytes once, then fail."""
        if self.closed or getattr(self, "_failed", False):
            raise OSError(5, "Input/output error")
        self._failed = True
        return bytes(max(size, 0))


def test_a_data_set_that_cannot_be_read_to_its_end_is_never_stored(tmp_path: Path) -> None:
    """A disk that fails half way must not leave half an instance at the destination."""
    items = [Outgoing(CT, "1.2.1", EXPLICIT, Breaking), instance(2)]  # type: ignore[arg-type]
    with Destination(tmp_path) as destination:
        results = store_all(peer_of(destination), items)
        assert [received.sop_instance_uid for received in destination.requests] == ["1.2.3.2"]
    assert [result.outcome for result in results] == [Outcome.UNAVAILABLE, Outcome.STORED]
    assert results[0].reason == "the data set could not be read to its end"


def test_an_unforeseen_error_stops_every_association(tmp_path: Path) -> None:
    """A mistake in our own code must surface at once, not after the rest of a large batch."""

    def wrong() -> io.BytesIO:
        raise ZeroDivisionError

    items = [Outgoing(CT, "1.2.1", EXPLICIT, wrong), *(instance(number) for number in range(2, 200))]
    with Destination(tmp_path) as destination:
        with pytest.raises(ZeroDivisionError):
            store_all(peer_of(destination), items, associations=2)
        assert destination.count < 150
