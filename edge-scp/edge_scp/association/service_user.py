"""The service user of one association: who may open it, when it is released, why it is aborted (PS3.8 §7)."""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bucky.log import get_logger
from bucky.text.listeners import Listener
from bucky.trace import new_traceparent
from edge_scp.association.admission import CALLING_AET_UNKNOWN, Rejection, refusal
from edge_scp.association.boundaries import FastSession, Phase, Unfinished
from edge_scp.association.limits import AssociationLimits
from edge_scp.association.messages import Messages, OutOfSequence
from edge_scp.association.negotiation import APPLICATION_CONTEXT, Agreement, AssociateRequest, Negotiator, is_ae_title
from edge_scp.association.provider import UpperLayerProvider
from edge_scp.association.sink import CommitmentSink, Requestor, Sink
from edge_scp.association.states import State
from edge_scp.association.statuses import Status
from edge_scp.association.timeouts import Patience

log = get_logger("edge")

_ODDITIES_TOLD = 10
APPLICATION_CONTEXT_UNKNOWN = Rejection(1, 1, 2, "the application context is not DICOM's")


class AssociationMetrics(Protocol):
    """Counts associations by what became of them."""

    def association(self, outcome: str) -> None:
        """Count one more that was accepted, rejected, released, aborted or failed."""


class Stands(Protocol):
    """Told when an association is accepted, and when it is over and its connection still open."""

    def __call__(self, *, associated: bool) -> None:
        """Count it."""


def _nobody(*, associated: bool) -> None:
    """Count nothing."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the associations of one listener share; `obstacle` says why no more can be accepted now, if so."""

    listener: Listener
    limits: AssociationLimits
    negotiator: Negotiator
    sink: Sink
    metrics: AssociationMetrics
    obstacle: Callable[[], Rejection | None]
    clock: Callable[[], float]
    reports: CommitmentSink | None = None


class AcceptedAssociation:
    """One association, from its connection to its end."""

    def __init__(self, service: Service, source_address: str, stands: Stands = _nobody) -> None:
        self.caller: Requestor | None = None
        self._stands = stands
        self._over_told = False
        self._service = service
        self._source_address = source_address
        self._provider = UpperLayerProvider(self, service.limits, service.clock)
        self._patience = Patience(service.limits, service.clock)
        self._messages: Messages | None = None
        self._began = time.monotonic()
        self._release_waits = False
        self._outcome = ""
        self._ride: FastSession | None = None

    @property
    def provider(self) -> UpperLayerProvider:
        """Return the provider that serves it."""
        return self._provider

    @property
    def established(self) -> bool:
        """Tell whether it was accepted and is not over."""
        return self._messages is not None and not self._outcome

    @property
    def stored(self) -> bool:
        """Tell whether an instance was kept."""
        return self._messages is not None and Status.SUCCESS.name.lower() in self._messages.answers

    def release(self) -> bool:
        """Ask the peer to release, if nothing is in hand; tell whether it was asked."""
        if self._ride is not None and self._ride.standing.phase is Phase.BETWEEN_MESSAGES:
            self._leave_lane()
        idle = self._messages is not None and self._messages.idle
        if idle and self._provider.state is State.Sta6:
            self._provider.release()
            return True
        return False

    def abort(self, reason: str) -> None:
        """End it, for a reason of ours."""
        self._leave_lane()
        if self._provider.state not in {State.Sta1, State.Sta2, State.Sta13}:
            self.aborted(reason)
            self._provider.abort()

    def tick(self, now: float) -> None:
        """Look at the clock: ARTIM, and the peer's time to go on."""
        self._provider.tick(now)
        messages = self._messages
        if messages is None:
            return
        if self._outcome and not self._over_told:
            # Not at once: nearly every peer closes when its association is over.
            self._over_told = True
            self._stands(associated=False)
        if self._ride is not None:
            phase, since, received = self._ride.standing
            self._patience.follow(since)
        else:
            phase, received = messages.phase, self._provider.data_set_bytes
        late = None
        if phase is Phase.RECEIVING:
            late = self._patience.lost_within_data_set(now, received)
        elif phase is Phase.BETWEEN_MESSAGES:
            late = self._patience.lost_between_messages(now)
        if late:
            self.abort(late)

    # The fast path, in which an association may be between any two messages.

    def offered(self) -> tuple[Requestor, Agreement] | None:
        """Return whose messages the fast path may have now, and what was agreed on; None in the middle of something."""
        messages, caller = self._messages, self.caller
        if messages is None or caller is None or self._release_waits or not messages.idle:
            return None
        return (caller, messages.agreement) if self._provider.between_pdus else None

    def lane_entered(self, ride: FastSession) -> None:
        """Have messages served on the fast path from here on."""
        self._ride = ride

    def fast_path_left(self, answered: int, unfinished: Unfinished | None) -> None:
        """Go on after a number of instances were stored, with the one in hand."""
        self._ride = None
        if self._messages is not None:
            self._messages.stored(answered)
            self._patience.message_ended()
            if unfinished is not None:
                self._messages.go_on(unfinished)

    def _leave_lane(self) -> None:
        if self._ride is not None:
            self._ride.end()

    # Indications of the provider (PS3.8 §7).

    @property
    def busy(self) -> bool:
        """Tell whether a request is being carried out."""
        return self._messages is not None and self._messages.answering

    def associate_indicated(self, request: bytes) -> None:
        """Accept the association, or reject it with the reason that PS3.8 Table 9-21 has for it."""
        asked = AssociateRequest.read(request)
        caller = Requestor(
            association_id=secrets.token_hex(8),
            calling_aet=asked.calling_aet,
            called_aet=asked.called_aet,
            source_address=self._source_address,
            traceparent=new_traceparent(),
            listener=self._service.listener.label,
        )
        self.caller = caller
        rejection = self._refusal(asked)
        if rejection is None:
            agreement = self._service.negotiator.agreement(asked)
            if agreement.application_context == APPLICATION_CONTEXT:
                self._accept(caller, asked, agreement)
                return
            rejection = APPLICATION_CONTEXT_UNKNOWN
        self._ends("rejected", reason=rejection.reason)
        self._provider.reject(rejection.result, rejection.source, rejection.diagnostic)

    def data_indicated(self, context_id: int, control: int, piece: memoryview, ends: bool) -> None:
        """Pass on a piece of a message."""
        if self._messages is not None:
            try:
                self._messages.value_arrived(context_id, control, piece, ends)
            except OutOfSequence as error:
                self.abort(str(error))

    def release_indicated(self) -> None:
        """Agree to release, after the response to a request that is complete; one in transit is lost."""
        if self.busy:
            self._release_waits = True
        elif self._messages is not None and self._messages.idle:
            self._agree_to_release()
        else:
            self.abort("released in the middle of a message")

    def release_confirmed(self) -> None:
        """Note the end that we asked for."""
        self._ends("released")

    def aborted(self, reason: str) -> None:
        """Note the end, and forget the message in hand."""
        self._leave_lane()
        if self._messages is not None:
            self._messages.abandon()
        self._ends("aborted", reason=reason)

    def disconnected(self, reason: str = "") -> None:
        """Note that a connection never became an association."""
        self._ends("failed", reason=reason or self._provider.trouble or "closed before a request")

    def _accept(self, caller: Requestor, asked: AssociateRequest, agreement: Agreement) -> None:
        self._messages = Messages(
            caller,
            agreement,
            self._service.sink,
            max_command=self._service.limits.max_command,
            patience=self._patience,
            data_set_goes_to=self._provider.data_set_goes_to,
            respond=self._respond,
            reports=self._service.reports,
        )
        self._patience.message_ended()
        self._service.metrics.association("accepted")
        self._stands(associated=True)
        log.info(
            "association.accepted",
            contexts=len(agreement.contexts),
            contexts_refused=agreement.refused,
            **({"oddities": agreement.oddities[:_ODDITIES_TOLD]} if agreement.oddities else {}),
            **_fields(caller),
        )
        self._provider.accept(agreement.reply(asked))

    def _refusal(self, asked: AssociateRequest) -> Rejection | None:
        listener = self._service.listener
        rejection = refusal(
            listener,
            address=self._source_address,
            calling_aet=asked.calling_aet,
            called_aet=asked.called_aet,
            too_many=False,
        )
        if rejection is None and not is_ae_title(asked.calling_aet):
            rejection = CALLING_AET_UNKNOWN
        return rejection or self._service.obstacle()

    def _respond(self, pdus: bytes) -> None:
        self._patience.message_ended()
        self._provider.send_data(pdus)
        if self._release_waits:
            self._agree_to_release()
        else:
            self._provider.read_on()

    def _agree_to_release(self) -> None:
        self._ends("released")
        self._provider.answer_release()

    def _ends(self, outcome: str, **why: str) -> None:
        """Note what became of the association: once, whatever follows."""
        if self._outcome:
            return
        self._outcome = outcome
        self._service.metrics.association(outcome)
        caller = self.caller
        log.log(
            logging.INFO if outcome == "released" else logging.WARNING,
            f"association.{outcome}",
            duration_ms=round((time.monotonic() - self._began) * 1000),
            answers=dict(self._messages.answers) if self._messages is not None else {},
            **why,
            **(_fields(caller) if caller is not None else {"source_address": self._source_address}),
        )


def _fields(caller: Requestor) -> dict[str, str]:
    return {
        "association_id": caller.association_id,
        "calling_aet": caller.calling_aet,
        "called_aet": caller.called_aet,
        "source_address": caller.source_address,
    }
