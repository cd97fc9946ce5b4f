"""Asking a DICOM node to commit to keeping instances, and hearing what it says on the same association.

N-ACTION and N-EVENT-REPORT of the Storage Commitment Push Model (PS3.4 Annex J, PS3.7 §10.1.1 and §10.1.4). More often
the report comes later, on an association that the node opens to the edge.
"""

import io
import select
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from bucky.dimse import messages, status
from bucky.dimse.association import MAX_COMMAND, RequestedAssociation
from bucky.dimse.commitment import (
    IMPLICIT,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_COMMITMENT,
    CommitmentReport,
    InvalidReport,
    action_information,
    read_report,
)
from bucky.dimse.messages import Context, element, number, padded
from bucky.dimse.peer import Peer
from bucky.errors import DestinationUnavailable

MAX_REPORT = 1024 * 1024
_CONTEXT: Context = (PUSH_MODEL, IMPLICIT)
_N_EVENT_REPORT_RQ, _N_ACTION_RQ = 0x0100, 0x0130
_RESPONSE = 0x8000
_WITH_DATA_SET, _NO_DATA_SET = 0x0001, 0x0101
# What a node may answer that trying again soon can change (PS3.7 Annex C).
_PASSING = {status.PROCESSING_FAILURE, 0x0213}

Transaction = tuple[str, Sequence[tuple[str, str]]]
"""Its UID, and the SOP class and instance of each that is asked about."""


class CommitmentAssociation(RequestedAssociation):
    """An association that asks for commitments; `reported` is told each report before that is answered."""

    def __init__(self, peer: Peer, reported: Callable[[CommitmentReport], None]) -> None:
        self._reported = reported
        self._fragments: deque[tuple[bytes, bool, bool]] = deque()  # received and not yet read
        super().__init__(peer, [_CONTEXT])

    def ask(self, transaction: Transaction) -> str:
        """Ask in one transaction; return why the node will not answer it, or nothing when it will.

        Raises `DestinationUnavailable` when the association is lost, or the node cannot be asked now.
        """
        context_id = self.context_id(_CONTEXT)
        if context_id is None:
            return "the destination does not accept the Storage Commitment Push Model"
        self._message_id = self._message_id % 0xFFFF + 1
        self._say(context_id, _action_request(self._message_id), action_information(*transaction))
        deadline = time.monotonic() + self._peer.timeout
        while True:
            values, data_set = self._message(deadline)
            if number(values, 0x0100) == _N_ACTION_RQ | _RESPONSE:
                break
            self._hear(context_id, values, data_set)
        if number(values, 0x0120) != self._message_id:
            self._lost(f"{self._peer} answered another message than the one it was sent")
        answer = number(values, 0x0900)
        said = f"the destination answered 0x{answer:04X}, {status.meaning(answer)}, when asked for its commitment"
        if answer in _PASSING:
            raise DestinationUnavailable(said)
        return "" if answer == status.SUCCESS else said

    def listen(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Receive reports for a time, or until there are enough; a node that ends the association may do so."""
        context_id = self.context_id(_CONTEXT)
        deadline = time.monotonic() + seconds
        while context_id is not None and not enough() and self._something_comes(deadline):
            values, data_set = self._message(time.monotonic() + self._peer.timeout)
            self._hear(context_id, values, data_set)

    def _hear(self, context_id: int, values: dict[int, bytes], data_set: bytes) -> None:
        """Tell a report, and answer it when whoever is told has recorded it."""
        if number(values, 0x0100) != _N_EVENT_REPORT_RQ:
            self._lost(f"{self._peer} sent a message that has no place here")
        try:
            self._reported(read_report(number(values, 0x1002), data_set, IMPLICIT))
            answer = status.SUCCESS
        except InvalidReport as error:
            answer = error.status
        self._say(context_id, _event_response(values, answer))

    def _say(self, context_id: int, command: bytes, data_set: bytes | None = None) -> None:
        max_pdu = self._acceptance.max_pdu
        for pdu in messages.data_pdus(context_id, io.BytesIO(command), max_pdu, command=True):
            self._send(pdu)
        if data_set is not None:
            for pdu in messages.data_pdus(context_id, io.BytesIO(data_set), max_pdu):
                self._send(pdu)

    def _message(self, deadline: float) -> tuple[dict[int, bytes], bytes]:
        """Receive one message: its command elements, and its data set, which is empty where it has none."""
        try:
            command = self._whole(deadline, is_command=True, most=MAX_COMMAND)
            values = messages.command_elements(command)
            has_data_set = number(values, 0x0800) != _NO_DATA_SET
            return values, self._whole(deadline, is_command=False, most=MAX_REPORT) if has_data_set else b""
        except ValueError as error:
            self._lost(f"{self._peer} sent something that cannot be read: {error}", error)

    def _whole(self, deadline: float, *, is_command: bool, most: int) -> bytes:
        """Receive a command set, or a data set."""
        whole = bytearray()
        while True:
            fragment, of_command, last = self._next_fragment(deadline)
            if of_command is not is_command:
                raise ValueError("its fragments make no message")
            whole += fragment
            if last:
                return bytes(whole)
            if len(whole) > most:
                raise ValueError("it has no end")

    def _next_fragment(self, deadline: float) -> tuple[bytes, bool, bool]:
        while not self._fragments:
            pdu = self._receive(deadline)
            if pdu[0] != messages.DATA:
                self._unexpected(pdu)
            self._fragments.extend(messages.fragments(pdu))
        return self._fragments.popleft()

    def _something_comes(self, deadline: float) -> bool:
        if self._fragments or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return True
        return bool(select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0])


def ask_for_commitment(
    peer: Peer,
    transactions: Iterable[Transaction],
    *,
    asked: Callable[[str, str], None],
    reported: Callable[[CommitmentReport], None],
    linger: float,
) -> None:
    """Ask a node in several transactions over one association, then listen for a time in seconds.

    `asked` is told the UID of each and why it will not be answered, if so. Raises `DestinationUnavailable` when the
    node cannot be asked; those that `asked` was not told of were not.
    """
    waiting: set[str] = set()

    def heard(report: CommitmentReport) -> None:
        reported(report)
        waiting.discard(report.transaction_uid)

    with CommitmentAssociation(peer, heard) as association:
        for transaction in transactions:
            waiting.add(transaction[0])
            trouble = association.ask(transaction)
            asked(transaction[0], trouble)
            if trouble:
                waiting.discard(transaction[0])
        try:
            association.listen(linger, lambda: not waiting)
        except DestinationUnavailable:
            return  # every transaction was asked for: what was not heard here comes another way, or is asked again


def _action_request(message_id: int) -> bytes:
    """Return the command set of an N-ACTION-RQ (PS3.7 Table 10.3-7)."""
    return _command(
        element(0x0003, padded(PUSH_MODEL)),
        element(0x0100, struct.pack("<H", _N_ACTION_RQ)),
        element(0x0110, struct.pack("<H", message_id)),
        element(0x0800, struct.pack("<H", _WITH_DATA_SET)),
        element(0x1001, padded(PUSH_MODEL_INSTANCE)),
        element(0x1008, struct.pack("<H", REQUEST_COMMITMENT)),
    )


def _event_response(request: dict[int, bytes], answer: int) -> bytes:
    """Return the command set of an N-EVENT-REPORT-RSP (PS3.7 Table 10.3-2)."""
    return _command(
        element(0x0002, padded(PUSH_MODEL)),
        element(0x0100, struct.pack("<H", _N_EVENT_REPORT_RQ | _RESPONSE)),
        element(0x0120, struct.pack("<H", number(request, 0x0110))),
        element(0x0800, struct.pack("<H", _NO_DATA_SET)),
        element(0x0900, struct.pack("<H", answer)),
        element(0x1000, padded(PUSH_MODEL_INSTANCE)),
        element(0x1002, struct.pack("<H", number(request, 0x1002))),
    )


def _command(*elements: bytes) -> bytes:
    whole = b"".join(elements)
    return element(0x0000, struct.pack("<I", len(whole))) + whole
