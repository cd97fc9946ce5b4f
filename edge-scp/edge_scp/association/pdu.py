"""Bytes to PDUs, as they arrive (PS3.8 §9.3): the values of P-DATA-TF in pieces, other PDUs whole.

The reader holds at most one header and one bounded PDU; pieces are slices of the buffer they came in. Its
consumer decides on each PDU from the header alone, before a byte of it is kept.
"""

import struct
from collections.abc import Callable
from enum import Enum
from typing import Protocol

A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ = 0x01, 0x02, 0x03
P_DATA_TF, A_RELEASE_RQ, A_RELEASE_RP, A_ABORT = 0x04, 0x05, 0x06, 0x07

# The message control header's bits (PS3.8 §E.2): of a command rather than a data set, and its last fragment.
COMMAND, LAST = 0x01, 0x02

# A-ABORT's source and reason (PS3.8 Table 9-26).
SERVICE_USER, SERVICE_PROVIDER = 0, 2
NOT_SPECIFIED, UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PDU_PARAMETER = 0, 1, 2, 6

_PDU_HEADER = struct.Struct(">BxI")
_VALUE_HEADER = struct.Struct(">IBB")
_HEADER_SIZE = 6  # of both
_BOTH_HEADERS = struct.Struct(">BxIIBB")
_NOTHING = memoryview(b"")
# A system call writes up to 1,024 (IOV_MAX).
_MOST_PIECES = 512


class InvalidPdu(ValueError):
    """A PDU breaks PS3.8 §9.3, so where the next one begins is anybody's guess."""


class PduHandling(Enum):
    """What is to happen with a PDU whose header has arrived."""

    SKIPPED = "read past it"
    WHOLE = "collect it and pass it on"
    VALUES = "pass on its presentation data values as they arrive"
    HELD = "stop here until asked to read on"


# Takes pieces of a data set.
Taker = Callable[..., None]


class PduHandler(Protocol):
    """Who takes the PDUs; each method may raise `InvalidPdu`."""

    @property
    def busy(self) -> bool:
        """Tell whether the next value must wait."""

    def pdu_begins(self, kind: int, length: int) -> PduHandling:
        """Decide on a PDU of this type and length; asked again after `HELD`."""

    def pdu_arrived(self, kind: int, body: bytes) -> None:
        """Take a whole PDU, without its header."""

    def value_arrived(self, context_id: int, control: int, piece: memoryview, ends: bool) -> None:
        """Take the next piece of a value, empty if the value is; `ends` comes with its last."""


class PduReader:
    """Cuts one connection's bytes into PDUs; `max_data` is the length of P-DATA-TF that was advertised."""

    def __init__(self, consumer: PduHandler, max_data: int) -> None:
        self._consumer, self._max_data = consumer, max_data
        self._header = bytearray()  # of a PDU or a value, while it is incomplete
        self._kind = 0
        self._left = 0  # bytes of the PDU still to come
        self._asking = False  # its header is here, and the consumer has not decided
        self._wanted = PduHandling.SKIPPED
        self._body = bytearray()
        self._context_id = self._control = 0
        self._value_left = 0  # bytes of the value still to come
        self._taker: Taker | None = None
        self._taken_context = 0
        self.taken = 0
        """Bytes of the data set in transit."""

    def data_set_goes_to(self, context_id: int, taker: Taker | None) -> None:
        """Hand the data set in transit straight to who takes it: the consumer hears of its end only.

        What is no data set of that presentation context goes to the consumer, and so does everything after None.
        """
        self._taken_context, self._taker, self.taken = context_id, taker, 0

    def feed(self, data: memoryview) -> int:
        """Read on; return how many bytes were read, which is all of them unless the consumer holds."""
        at, end = 0, len(data)
        while True:
            if self._asking and not self._decided():
                return at
            if at == end:
                return at
            if self._value_left:
                at = self._read_value(data, at, end)
            elif not self._left:
                at = self._read_pdu_header(data, at, end)
            elif self._wanted is PduHandling.VALUES:
                if self._consumer.busy:
                    return at
                at = self._read_value_header(data, at, end)
            else:
                at = self._read_body(data, at, end)

    @property
    def between_pdus(self) -> bool:
        """Tell whether no PDU is in hand."""
        return not (self._left or self._header or self._asking)

    def skip_pdu(self) -> None:
        """Read past what is left of the present PDU."""
        self._wanted = PduHandling.SKIPPED
        self._value_left = 0
        self._body.clear()
        if self._left:
            # What was collected is a part of a value's header, and so of this PDU.
            self._left -= len(self._header)
            self._header.clear()

    def _read_pdu_header(self, data: memoryview, at: int, end: int) -> int:
        header, at = self._next_header(data, at, end)
        if header is not None:
            self._kind, self._left = _PDU_HEADER.unpack(header)
            self._asking = True
        return at

    def _decided(self) -> bool:
        self._wanted = wanted = self._consumer.pdu_begins(self._kind, self._left)
        if wanted is PduHandling.HELD:
            return False
        self._asking = False
        if wanted is PduHandling.VALUES and self._left < _HEADER_SIZE:
            raise InvalidPdu("a P-DATA-TF holds no presentation data value")
        if wanted is PduHandling.WHOLE and not self._left:
            self._consumer.pdu_arrived(self._kind, b"")
        return True

    def _read_body(self, data: memoryview, at: int, end: int) -> int:
        size = min(self._left, end - at)
        self._left -= size
        if self._wanted is PduHandling.WHOLE:
            self._body += data[at : at + size]
            if not self._left:
                body, self._body = bytes(self._body), bytearray()
                self._consumer.pdu_arrived(self._kind, body)
        return at + size

    def _read_value_header(self, data: memoryview, at: int, end: int) -> int:
        if self._left < _HEADER_SIZE:
            raise InvalidPdu("a presentation data value is cut short by the end of its PDU")
        header, at = self._next_header(data, at, end)
        if header is not None:
            length, self._context_id, self._control = _VALUE_HEADER.unpack(header)
            self._left -= _HEADER_SIZE
            # The length counts the context id and the control header, not itself.
            self._value_left = length - 2
            if not 0 <= self._value_left <= self._left:
                self._value_left = 0
                raise InvalidPdu("a presentation data value has an impossible length")
            if not self._value_left:
                self._consumer.value_arrived(self._context_id, self._control, _NOTHING, True)
        return at

    def _read_value(self, data: memoryview, at: int, end: int) -> int:
        if self._taker is not None and self._context_id == self._taken_context and not self._control & COMMAND:
            return self._read_data_set(self._taker, data, at, end)
        size = min(self._value_left, end - at)
        self._value_left -= size
        self._left -= size
        self._consumer.value_arrived(self._context_id, self._control, data[at : at + size], not self._value_left)
        return at + size

    def _read_data_set(self, taker: Taker, data: memoryview, at: int, end: int) -> int:
        """Read the value in hand, and what goes on with its data set in the PDUs after it: nearly all there is to read.

        The consumer is not asked about those PDUs: it has been told of nothing since it wanted the last one.
        """
        pieces: list[memoryview] = []
        began, context_id, control = at, self._context_id, self._control
        value_left, left = self._value_left, self._left
        headers = 0
        while True:
            piece = data[at : at + value_left]
            size = len(piece)
            pieces.append(piece)
            at += size
            value_left -= size
            left -= size
            if value_left or left or control & LAST or end - at < _BOTH_HEADERS.size or len(pieces) == _MOST_PIECES:
                break
            kind, length, value_length, its_context_id, its_control = _BOTH_HEADERS.unpack_from(data, at)
            if kind != P_DATA_TF or its_context_id != context_id or its_control & COMMAND or length > self._max_data:
                break
            if not 2 < value_length <= length - 4:
                break
            at += _BOTH_HEADERS.size
            headers += _BOTH_HEADERS.size
            control, left, value_left = its_control, length - _HEADER_SIZE, value_length - 2
        self._value_left, self._left, self._control = value_left, left, control
        self.taken += at - began - headers
        taker(*pieces)
        if control & LAST and not value_left:
            self._consumer.value_arrived(context_id, control, _NOTHING, True)
        return at

    def _next_header(self, data: memoryview, at: int, end: int) -> tuple[bytes | memoryview | None, int]:
        """Return the six bytes of a header, or None until they are there, and where to read on."""
        if not self._header and end - at >= _HEADER_SIZE:
            return data[at : at + _HEADER_SIZE], at + _HEADER_SIZE
        size = min(_HEADER_SIZE - len(self._header), end - at)
        self._header += data[at : at + size]
        if len(self._header) < _HEADER_SIZE:
            return None, at + size
        header = bytes(self._header)
        self._header.clear()
        return header, at + size


ENDING_LENGTH = 4
RELEASE_REQUEST = struct.pack(">BxIxxxx", A_RELEASE_RQ, ENDING_LENGTH)
RELEASE_RESPONSE = struct.pack(">BxIxxxx", A_RELEASE_RP, ENDING_LENGTH)


def associate_rj(result: int, source: int, diagnostic: int) -> bytes:
    """Return an A-ASSOCIATE-RJ (PS3.8 §9.3.4)."""
    return struct.pack(">BxIxBBB", A_ASSOCIATE_RJ, 4, result, source, diagnostic)


def abort(source: int, reason: int) -> bytes:
    """Return an A-ABORT (PS3.8 §9.3.8)."""
    return struct.pack(">BxIxxBB", A_ABORT, ENDING_LENGTH, source, reason)
