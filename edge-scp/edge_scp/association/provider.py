"""The upper layer service provider of one association (PS3.8 §7, §9.2): PDUs in, primitives out, and back.

Bytes become events, `states.TABLE` says which action each event means, and each action is a function under
its own name. Below is the transport connection (`connection`), above the service user (`association`).
"""

from collections.abc import Callable

from edge_scp.association import pdu
from edge_scp.association.boundaries import ServiceUser, Transport
from edge_scp.association.limits import AssociationLimits
from edge_scp.association.pdu import InvalidPdu, PduHandling, PduReader, Taker
from edge_scp.association.states import TABLE, Action, Event, State

_EVENTS = {
    pdu.A_ASSOCIATE_RQ: Event.Evt6,
    pdu.A_ASSOCIATE_AC: Event.Evt3,
    pdu.A_ASSOCIATE_RJ: Event.Evt4,
    pdu.P_DATA_TF: Event.Evt10,
    pdu.A_RELEASE_RQ: Event.Evt12,
    pdu.A_RELEASE_RP: Event.Evt13,
    pdu.A_ABORT: Event.Evt16,
}
_ENDINGS = {pdu.A_RELEASE_RQ, pdu.A_RELEASE_RP, pdu.A_ABORT}
_LEAST_ASSOCIATE_LENGTH = 68  # its fixed fields (PS3.8 Table 9-11)
_VERSION_1 = 0x0001
VERSION_NOT_SUPPORTED = (1, 2, 2)  # rejected permanent, by the service provider (ACSE): PS3.8 Table 9-21


class UpperLayerProvider:
    """The state machine of one association."""

    def __init__(self, user: ServiceUser, limits: AssociationLimits, clock: Callable[[], float]) -> None:
        self.state = State.Sta1
        self.trouble = ""
        self._user = user
        self._limits = limits
        self._clock = clock
        self._transport: Transport
        self._reader = PduReader(self, limits.max_pdu)
        self._artim: float | None = None
        self._kind = 0  # of the PDU that the event in hand is about
        self._body = b""  # its body, where it was collected
        self._reply = b""  # what the action in hand sends
        self._deaf = False  # where PDUs begin is not known any more
        self._abort_sent = False

    # From the transport connection below.

    def connected(self, transport: Transport) -> None:
        self._transport = transport
        self._happens(Event.Evt5)

    def received(self, data: memoryview) -> int:
        """Take what the peer sent; return how much of it was taken, less than all only if the user is busy."""
        if self._deaf:
            return len(data)
        try:
            return self._reader.feed(data)
        except InvalidPdu as error:
            self._deaf = True
            self.trouble = str(error)
            self._happens(Event.Evt19)
            return len(data)

    def lost(self) -> None:
        if self.state is not State.Sta1:
            self._happens(Event.Evt17)

    def tick(self, now: float) -> None:
        if self._artim is not None and now >= self._artim:
            self.trouble = self.trouble or f"ARTIM expired in {self.state.name}"
            self._happens(Event.Evt18)

    # Primitives of the service user above: requests and responses (PS3.8 §7).

    def accept(self, reply: bytes) -> None:
        """A-ASSOCIATE response, accepted; `reply` is the A-ASSOCIATE-AC."""
        self._reply = reply
        self._happens(Event.Evt7)

    def reject(self, result: int, source: int, diagnostic: int) -> None:
        """A-ASSOCIATE response, rejected for a reason out of PS3.8 Table 9-21."""
        self._reply = pdu.associate_rj(result, source, diagnostic)
        self._happens(Event.Evt8)

    def send_data(self, pdus: bytes) -> None:
        """P-DATA request; `pdus` are P-DATA-TF."""
        self._reply = pdus
        self._happens(Event.Evt9)

    def release(self) -> None:
        self._happens(Event.Evt11)

    def answer_release(self) -> None:
        self._happens(Event.Evt14)

    def abort(self) -> None:
        self._happens(Event.Evt15)

    def data_set_goes_to(self, context_id: int, taker: Taker | None) -> None:
        """Hand the data set in transit straight to who takes it; the user is indicated its end."""
        self._reader.data_set_goes_to(context_id, taker)

    @property
    def data_set_bytes(self) -> int:
        """Return how much of the data set in transit has come."""
        return self._reader.taken

    @property
    def between_pdus(self) -> bool:
        """Tell whether data may be transferred and no PDU is in hand."""
        return self.state is State.Sta6 and self._reader.between_pdus

    def read_on(self) -> None:
        self._transport.read_on()

    # From the PDU reader.

    @property
    def busy(self) -> bool:
        """Tell whether a request is being carried out, so that what follows it waits."""
        return self._user.busy

    def pdu_begins(self, kind: int, length: int) -> PduHandling:
        """Take a PDU's header: events that need no more happen now, and no body is kept in vain."""
        if self.state is State.Sta1:
            return PduHandling.HELD
        ends = kind in _ENDINGS and length == pdu.ENDING_LENGTH
        if self.state is State.Sta6 and self._user.busy and not ends:
            # The sender learns what became of its request before it learns what is wrong with the next.
            return PduHandling.HELD
        event = _EVENTS.get(kind)
        if event is None:
            self._arrives(kind, Event.Evt19)
            return PduHandling.SKIPPED
        if kind == pdu.P_DATA_TF:
            return self._data_begins(length)
        if kind in _ENDINGS:
            if length != pdu.ENDING_LENGTH:
                raise InvalidPdu(f"PDU type 0x{kind:02X} of impossible length")
            return PduHandling.WHOLE
        if event is Event.Evt6 and self.state is State.Sta2:
            if not _LEAST_ASSOCIATE_LENGTH <= length <= self._limits.max_associate:
                raise InvalidPdu("an A-ASSOCIATE-RQ of impossible length")
            return PduHandling.WHOLE
        self._arrives(kind, event)
        return PduHandling.SKIPPED

    def _data_begins(self, length: int) -> PduHandling:
        if self.state is State.Sta6:
            if self._transport.congested:
                return PduHandling.HELD
            if length > self._limits.max_pdu:
                raise InvalidPdu("a P-DATA-TF longer than the maximum length advertised")
        self._arrives(pdu.P_DATA_TF, Event.Evt10)
        return PduHandling.VALUES if self.state is State.Sta6 else PduHandling.SKIPPED

    def pdu_arrived(self, kind: int, body: bytes) -> None:
        self._body = body
        self._arrives(kind, _EVENTS[kind])

    def value_arrived(self, context_id: int, control: int, piece: memoryview, ends: bool) -> None:
        """P-DATA indication, a piece at a time."""
        self._user.data_indicated(context_id, control, piece, ends)

    # The state machine: what happens, and what is then done (PS3.8 Tables 9-6 to 9-9).

    def _arrives(self, kind: int, event: Event) -> None:
        self._kind = kind
        self._happens(event)

    def _happens(self, event: Event) -> None:
        _TRANSITIONS[self.state][event](self)

    def _start_artim(self) -> None:
        self._artim = self._clock() + self._limits.artim_seconds

    def _ae_5(self) -> None:
        self._start_artim()
        self.state = State.Sta2

    def _ae_6(self) -> None:
        self._artim = None
        body, self._body = self._body, b""
        version = int.from_bytes(body[:2], "big")
        if version & _VERSION_1:
            self.state = State.Sta3
            self._user.associate_indicated(body)
        else:
            self._reply = pdu.associate_rj(*VERSION_NOT_SUPPORTED)
            self._ae_8()

    def _ae_7(self) -> None:
        self._transport.send(self._reply)
        self.state = State.Sta6

    def _ae_8(self) -> None:
        self._transport.send(self._reply)
        self._start_artim()
        self.state = State.Sta13

    def _dt_1(self) -> None:
        self._transport.send(self._reply)

    def _dt_2(self) -> None:
        """Nothing yet: the PDU's values are indicated as they arrive."""

    def _ar_1(self) -> None:
        # As of AR-6, and be it in the middle of a PDU.
        self._reader.skip_pdu()
        self._transport.send(pdu.RELEASE_REQUEST)
        self.state = State.Sta7

    def _ar_2(self) -> None:
        self.state = State.Sta8
        self._user.release_indicated()

    def _ar_3(self) -> None:
        self.state = State.Sta1
        self._user.release_confirmed()
        self._transport.close()

    def _ar_4(self) -> None:
        self._transport.send(pdu.RELEASE_RESPONSE)
        self._start_artim()
        self.state = State.Sta13

    def _ar_6(self) -> None:
        """Nothing: a message that comes after our A-RELEASE-RQ cannot be answered, so it is not read."""

    def _ar_8(self) -> None:
        """As acceptor, wait for the peer's answer first; the peer's own request is indicated after it."""
        self.state = State.Sta10

    def _ar_10(self) -> None:
        self.state = State.Sta12
        self._user.release_indicated()

    def _aa_1(self) -> None:
        self._send_abort(pdu.SERVICE_USER, pdu.NOT_SPECIFIED)
        self._start_artim()
        self.state = State.Sta13

    def _aa_2(self) -> None:
        self._artim = None
        self.state = State.Sta1
        self._transport.abort()

    def _aa_3(self) -> None:
        self.state = State.Sta1
        self._user.aborted("by the peer")
        self._transport.close()

    def _aa_4(self) -> None:
        self.state = State.Sta1
        self._user.aborted("connection lost")

    def _aa_5(self) -> None:
        self._artim = None
        self.state = State.Sta1

    def _aa_6(self) -> None:
        """Nothing: the association is over."""

    def _aa_7(self) -> None:
        self._send_abort(pdu.SERVICE_PROVIDER, pdu.UNEXPECTED_PDU)

    def _aa_8(self) -> None:
        if self._deaf:
            reason = pdu.INVALID_PDU_PARAMETER
        elif self._kind in _EVENTS:
            reason = pdu.UNEXPECTED_PDU
            self.trouble = f"unexpected PDU type 0x{self._kind:02X} in {self.state.name}"
        else:
            reason = pdu.UNRECOGNIZED_PDU
            self.trouble = f"unrecognized PDU type 0x{self._kind:02X}"
        self._send_abort(pdu.SERVICE_PROVIDER, reason)
        self._start_artim()
        self.state = State.Sta13
        self._user.aborted(self.trouble)

    def _send_abort(self, source: int, reason: int) -> None:
        """Send an A-ABORT, the first time only: a peer that goes on talking gets no answer to each word."""
        self._reader.skip_pdu()
        if not self._abort_sent:
            self._abort_sent = True
            self._transport.send(pdu.abort(source, reason))
        self._transport.read_on()


_ACTIONS: dict[Action, Callable[[UpperLayerProvider], None]] = {
    action: getattr(UpperLayerProvider, f"_{action.name.lower()}")
    for action in Action
    if action.name not in {"AR_5", "AR_7"}
}
# The same actions under two names.
_ACTIONS[Action.AR_5] = UpperLayerProvider._aa_5
_ACTIONS[Action.AR_7] = UpperLayerProvider._dt_1
_TRANSITIONS = {state: {event: _ACTIONS[action] for event, action in events.items()} for state, events in TABLE.items()}
