"""The messages of one association: presentation data values to requests, requests to responses (PS3.7 §6.3, §8).

One operation at a time, no asynchronous operations window being negotiated (PS3.7 §D.3.3.3). The data set of a
C-STORE goes to its reception piece by piece; that of a service not served is read past, and then answered.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from edge_scp.association.boundaries import Phase, Unfinished
from edge_scp.association.dimse import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    N_EVENT_REPORT_RQ,
    MalformedCommand,
    Request,
    read_request,
    response_pdus,
)
from edge_scp.association.negotiation import Agreement, PresentationContext
from edge_scp.association.pdu import COMMAND, LAST, Taker
from edge_scp.association.sink import CommitmentSink, IncomingInstance, Requestor, Sink, StoreStatus
from edge_scp.association.statuses import Status
from edge_scp.association.storage_syntaxes import STORAGE_COMMITMENT, VERIFICATION
from edge_scp.association.store_service import StoreCommand
from edge_scp.association.timeouts import Patience


class OutOfSequence(ValueError):
    """The peer's fragments make no message (PS3.7 §6.3, PS3.8 §E.1); the association cannot go on."""


class Messages:
    """Assembles requests, has them carried out, and sends the responses."""

    def __init__(
        self,
        caller: Requestor,
        agreement: Agreement,
        sink: Sink,
        *,
        max_command: int,
        patience: Patience,
        data_set_goes_to: Callable[[int, Taker | None], None],
        respond: Callable[[bytes], None],
        reports: CommitmentSink | None = None,
    ) -> None:
        self.answers: Counter[str] = Counter()
        self.agreement = agreement
        self._caller, self._sink, self._reports = caller, sink, reports
        self._contexts: Mapping[int, PresentationContext] = agreement.contexts
        self._peer_max_pdu = agreement.peer_max_pdu
        self._max_command = max_command
        self._patience = patience
        self._data_set_goes_to = data_set_goes_to
        self._respond = respond
        self._context_id = 0  # of the message in hand
        self._command: bytearray | None = None  # the fragments so far of a command set
        self._request: Request | None = None
        self._reception: IncomingInstance | None = None  # where the data set in transit goes
        self._answering = False

    @property
    def answering(self) -> bool:
        """Tell whether a request is complete and its response not sent yet."""
        return self._answering

    @property
    def phase(self) -> Phase:
        """Return what is waited for."""
        if self._answering:
            return Phase.ANSWERING
        return Phase.RECEIVING if self._reception is not None else Phase.BETWEEN_MESSAGES

    @property
    def idle(self) -> bool:
        """Tell whether no message is in hand."""
        return self._request is None and self._command is None

    def abandon(self) -> None:
        """Forget the message in hand; an instance whose last fragment has come is kept, though unanswered."""
        reception, self._reception = self._reception, None
        self._command = self._request = None
        self._answering = False
        if reception is not None:
            self._data_set_goes_to(self._context_id, None)
            reception.abandon()

    def stored(self, instances: int) -> None:
        """Count instances that were answered elsewhere."""
        if instances:
            self.answers[Status.SUCCESS.name.lower()] += instances

    def go_on(self, unfinished: Unfinished) -> None:
        """Answer a C-STORE that was begun elsewhere, now or when the rest of it has come."""
        context_id, command_set, ended, received, refusal = unfinished
        self._context_id = context_id
        self._request = request = read_request(command_set)
        command = _store_command(request, self._contexts[context_id])
        reception = self._sink.refuse(command, self._caller, refusal, received)
        if ended:
            self._data_set_ends(request, reception)
        else:
            self._take_data_set(reception)

    def value_arrived(self, context_id: int, control: int, piece: memoryview, ends: bool) -> None:
        """Take a piece of a value; raise `OutOfSequence` when it continues nothing."""
        reception, request = self._reception, self._request
        if reception is None or request is None:
            self._command_arrives(context_id, control, piece, ends)
            return
        if control & COMMAND:
            raise OutOfSequence("a command where a data set should go on")
        if context_id != self._context_id:
            raise OutOfSequence("a data set in another presentation context than its command")
        if ends and control & LAST:
            self._data_set_ends(request, reception)

    def _command_arrives(self, context_id: int, control: int, piece: memoryview, ends: bool) -> None:
        if self._answering:
            raise OutOfSequence("a message before the last was answered")
        if not control & COMMAND:
            raise OutOfSequence("a data set that no command announced")
        if self._command is None:
            if context_id not in self._contexts:
                raise OutOfSequence("a presentation context that was not accepted")
            self._command, self._context_id = bytearray(), context_id
        elif context_id != self._context_id:
            raise OutOfSequence("two commands at once")
        if len(self._command) + len(piece) > self._max_command:
            raise OutOfSequence("a command set longer than any")
        self._command += piece
        if ends and control & LAST:
            command_set, self._command = bytes(self._command), None
            try:
                request = read_request(command_set)
            except MalformedCommand as error:
                raise OutOfSequence(str(error)) from error
            self._request_arrives(request)

    def _request_arrives(self, request: Request) -> None:
        if request.command_field == C_CANCEL_RQ:
            # Of an operation that is over, or never was: one that can be cancelled is not served here.
            return
        self._request = request
        reception = self._reception_of(request, self._contexts[self._context_id])
        if request.has_data_set:
            self._take_data_set(reception)
        else:
            self._data_set_ends(request, reception)

    def _take_data_set(self, reception: IncomingInstance) -> None:
        self._reception = reception
        self._data_set_goes_to(self._context_id, reception.write)
        self._patience.data_set_begins()

    def _reception_of(self, request: Request, context: PresentationContext) -> IncomingInstance:
        """Return who takes the request's data set and answers it: the sink, or a status (PS3.7 Annex C)."""
        verification = context.abstract_syntax_uid == VERIFICATION
        commitment = context.abstract_syntax_uid == STORAGE_COMMITMENT
        if request.command_field == N_EVENT_REPORT_RQ and commitment and self._reports is not None:
            if request.sop_class_uid == STORAGE_COMMITMENT and request.has_data_set:
                return self._reports.report(request.event_type, context.transfer_syntax_uid, self._caller)
            return _Unkept(Status.INVALID_ARGUMENT_VALUE)
        if request.command_field == C_STORE_RQ and not verification and not commitment:
            return self._sink.begin(_store_command(request, context), self._caller)
        if request.command_field == C_ECHO_RQ and verification and request.sop_class_uid == VERIFICATION:
            return _Unkept(Status.SUCCESS)
        if request.command_field in {C_STORE_RQ, C_ECHO_RQ}:
            return _Unkept(Status.SOP_CLASS_NOT_SUPPORTED)
        return _Unkept(Status.UNRECOGNIZED_OPERATION)

    def _data_set_ends(self, request: Request, reception: IncomingInstance) -> None:
        self._reception = None
        self._data_set_goes_to(self._context_id, None)
        self._answering = True
        reception.finish(partial(self._answered, request))

    def _answered(self, request: Request, answer: StoreStatus) -> None:
        if self._request is not request:
            return  # the association was over before the answer came
        self._request = None
        self._answering = False
        if request.command_field == C_STORE_RQ:
            self.answers[answer.status.name.lower()] += 1
        self._respond(response_pdus(self._context_id, request, answer.status, answer.error_comment, self._peer_max_pdu))


def _store_command(request: Request, context: PresentationContext) -> StoreCommand:
    return StoreCommand(
        affected_sop_class_uid=request.sop_class_uid,
        affected_sop_instance_uid=request.sop_instance_uid,
        abstract_syntax_uid=context.abstract_syntax_uid,
        transfer_syntax_uid=context.transfer_syntax_uid,
    )


class _Unkept:
    """Reads past whatever data set comes with a request, and answers it with a status."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def write(self, *fragments: memoryview) -> None:
        """Read past them."""

    def finish(self, answered: Callable[[StoreStatus], None]) -> None:
        """Answer."""
        answered(StoreStatus(self._status))

    def abandon(self) -> None:
        """Nothing was kept."""
