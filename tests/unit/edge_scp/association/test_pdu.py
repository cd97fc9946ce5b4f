"""The incremental reader against pynetdicom's parsing, on every way that bytes can be cut."""

import struct
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from edge_scp.association import pdu
from edge_scp.association.pdu import InvalidPdu, PduHandling, PduReader

MAX_DATA = 131072


class Recorder:
    """Puts pieces together again, and notes what was begun."""

    def __init__(self, wanted: PduHandling | None = None) -> None:
        self.begun: list[tuple[int, int]] = []
        self.whole: list[tuple[int, bytes]] = []
        self.values: list[tuple[int, int, bytes]] = []
        self.holding = self.busy = False
        self._wanted = wanted
        self._value = b""

    def pdu_begins(self, kind: int, length: int) -> PduHandling:
        if self.holding:
            return PduHandling.HELD
        self.begun.append((kind, length))
        return self._wanted or (PduHandling.VALUES if kind == pdu.P_DATA_TF else PduHandling.WHOLE)

    def pdu_arrived(self, kind: int, body: bytes) -> None:
        self.whole.append((kind, body))

    def value_arrived(self, context_id: int, control: int, piece: memoryview, ends: bool) -> None:
        self._value += piece
        if ends:
            self.values.append((context_id, control, self._value))
            self._value = b""


def p_data(*values: tuple[int, int, bytes]) -> bytes:
    """Encode a P-DATA-TF by PS3.8 §9.3.5."""
    body = b"".join(struct.pack(">IBB", len(data) + 2, context, control) + data for context, control, data in values)
    return struct.pack(">BxI", pdu.P_DATA_TF, len(body)) + body


def fed(stream: bytes, cuts: list[int]) -> Recorder:
    """Return what a reader made of a stream received in pieces."""
    recorder = Recorder()
    reader = PduReader(recorder, MAX_DATA)
    for start, end in pairwise(sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})):
        assert reader.feed(memoryview(stream[start:end])) == end - start
    return recorder


def parsed_by_pynetdicom(stream: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the values in a stream of P-DATA-TF as pynetdicom decodes them."""
    at = 0
    while at < len(stream):
        length = 6 + int(struct.unpack_from(">xxI", stream, at)[0])
        decoded = P_DATA_TF()
        decoded.decode(stream[at : at + length])
        for item in decoded.presentation_data_value_items:
            data = item.presentation_data_value
            assert item.presentation_context_id is not None
            assert data is not None
            yield item.presentation_context_id, data[0], data[1:]
        at += length


values = st.lists(st.tuples(st.integers(1, 255), st.integers(0, 255), st.binary(max_size=40)), min_size=1, max_size=5)


@given(st.lists(values, min_size=1, max_size=5), st.lists(st.integers(0, 2000), max_size=30))
def test_values_are_those_that_pynetdicom_sees(pdus: list[list[tuple[int, int, bytes]]], cuts: list[int]) -> None:
    """Several values in a PDU, empty and odd ones, cut anywhere: the same values come out."""
    stream = b"".join(p_data(*one) for one in pdus)
    recorder = fed(stream, cuts)
    assert recorder.values == list(parsed_by_pynetdicom(stream))
    assert len(recorder.begun) == len(pdus)


@given(st.binary(min_size=1, max_size=3000), st.integers(16, 400), st.lists(st.integers(0, 5000), max_size=30))
def test_messages_that_pynetdicom_encodes_are_put_together_again(content: bytes, max_pdu: int, cuts: list[int]) -> None:
    """A C-STORE-RQ in pynetdicom's own fragments, in PDUs as small as it makes them, loses nothing on the way."""
    request = C_STORE()
    request.MessageID, request.Priority = 7, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    request.DataSet = BytesIO(content)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    stream = b"".join(P_DATA_TF(primitive).encode() for primitive in message.encode_msg(1, max_pdu))
    recorder = fed(stream, cuts)
    data_set = [(control, data) for _, control, data in recorder.values if not control & pdu.COMMAND]
    assert b"".join(data for _, data in data_set) == content
    assert [control for control, _ in data_set] == [0] * (len(data_set) - 1) + [pdu.LAST]


STREAM = p_data((1, 3, b"command"), (1, 0, b""), (1, 2, b"odd")) + b"\x05\0\0\0\0\x04" + bytes(4) + b"\x09\0\0\0\0\0"


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_a_cut_at_every_boundary(cut: int) -> None:
    """Wherever the first receive ends, values and whole PDUs are the same, a PDU without a body among them."""
    recorder = fed(STREAM, [cut])
    assert recorder.values == [(1, 3, b"command"), (1, 0, b""), (1, 2, b"odd")]
    assert recorder.whole == [(5, bytes(4)), (9, b"")]


def test_a_byte_at_a_time() -> None:
    """One byte per receive makes no difference."""
    assert fed(STREAM, list(range(len(STREAM)))).whole == [(5, bytes(4)), (9, b"")]


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_holding_stops_before_a_pdu_and_asks_again(cut: int) -> None:
    """What a consumer holds back is not read, and comes whole when it goes on, however the header was cut."""
    recorder = Recorder()
    reader = PduReader(recorder, MAX_DATA)
    recorder.holding = True
    taken = reader.feed(memoryview(STREAM[:cut]))
    assert taken == min(cut, 6)
    assert reader.feed(memoryview(b"")) == 0
    recorder.holding = False
    rest = STREAM[taken:]
    assert reader.feed(memoryview(rest)) == len(rest)
    assert (len(recorder.values), recorder.whole) == (3, [(5, bytes(4)), (9, b"")])


def test_what_is_skipped_is_not_kept() -> None:
    """A PDU nobody wants costs nothing however long it says it is, and the next one is found behind it."""
    recorder = Recorder(PduHandling.SKIPPED)
    reader = PduReader(recorder, MAX_DATA)
    reader.feed(memoryview(struct.pack(">BxI", 0x01, 3_000_000)))
    for _ in range(3):
        reader.feed(memoryview(bytes(1_000_000)))
    reader.feed(memoryview(STREAM))
    assert [kind for kind, _ in recorder.begun] == [1, 4, 5, 9]
    assert (recorder.whole, recorder.values) == ([], [])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0\x02\x01",
        struct.pack(">IBB", 0, 1, 0),
        struct.pack(">IBB", 1, 1, 0),
        struct.pack(">IBB", 3, 1, 0),
        struct.pack(">IBB", 0xFFFFFFFF, 1, 0) + b"xx",
        struct.pack(">IBB", 4, 1, 0) + b"xxy",
    ],
    ids=["no value", "cut header", "length 0", "length 1", "too long", "far too long", "rest too short"],
)
def test_values_that_do_not_fit_their_pdu_are_invalid(body: bytes) -> None:
    """Lengths that contradict each other are an error when they are seen, not when the bytes run out."""
    with pytest.raises(InvalidPdu):
        PduReader(Recorder(), MAX_DATA).feed(memoryview(struct.pack(">BxI", pdu.P_DATA_TF, len(body)) + body))


@given(
    st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=3), min_size=1, max_size=8),
    st.lists(st.integers(0, 1000), max_size=30),
)
def test_a_data_set_goes_straight_to_its_taker(pdus: list[list[bytes]], cuts: list[int]) -> None:
    """However a data set is cut, its taker gets its bytes in order, and the consumer its end and what is not of it."""
    content = b"".join(b"".join(one) for one in pdus)
    stream = b"".join(p_data(*((1, 0, data) for data in one)) for one in pdus)
    stream += p_data((1, pdu.LAST, b"end"), (3, 0, b"another context"), (1, pdu.COMMAND, b"command"))
    recorder, taken = Recorder(), bytearray()
    reader = PduReader(recorder, MAX_DATA)
    reader.data_set_goes_to(1, lambda *pieces: taken.extend(b"".join(pieces)))
    for start, end in pairwise(sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})):
        reader.feed(memoryview(stream[start:end]))
    assert bytes(taken) == content + b"end"
    assert reader.taken == len(taken)
    heard = [value for value in recorder.values if value != (1, 0, b"")]
    assert heard == [(1, pdu.LAST, b""), (3, 0, b"another context"), (1, pdu.COMMAND, b"command")]


def test_pieces_of_a_data_set_are_no_more_than_one_write_takes() -> None:
    """Thousands of tiny PDUs received at once are handed over in portions."""
    portions: list[int] = []
    reader = PduReader(Recorder(), MAX_DATA)
    reader.data_set_goes_to(1, lambda *pieces: portions.append(len(pieces)))
    reader.feed(memoryview(p_data((1, 0, b"x")) * 5000))
    assert sum(portions) == 5000
    assert max(portions) <= 1024


def test_a_longer_pdu_than_was_advertised_is_left_to_the_consumer() -> None:
    """Within a data set too, the consumer is asked about a PDU that is too long."""
    recorder = Recorder()
    reader = PduReader(recorder, 20)
    reader.data_set_goes_to(1, lambda *_pieces: None)
    reader.feed(memoryview(p_data((1, 0, b"x")) * 3 + p_data((1, 0, bytes(40)))))
    assert recorder.begun == [(4, 7), (4, 46)]


@given(st.binary(max_size=500), st.lists(st.integers(0, 500), max_size=10))
def test_random_bytes_end_in_pdus_or_an_error(stream: bytes, cuts: list[int]) -> None:
    """Whatever comes, the reader reads all of it or says that it is invalid."""
    try:
        fed(stream, cuts)
    except InvalidPdu:
        return
