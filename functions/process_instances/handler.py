"""Gives instances to the functions that rules name, and brings what they make back in.

What a function makes is stored under its own digest, past the store's durability barrier, before anybody is told:
then the delivery is recorded as made, and the events of its results are returned with it. After a crash in
between, they are returned again; after one before that, the function is called again.

    the function                       delivery becomes   the event
    answered                           delivered          done; one more event for each result
    is away or busy                    retrying           not attempted: the connector leaves it alone
    failed, broke off, took too long   retrying           failed, to be tried again
    refuses, or its answer is unsound  failed             failed for good: a dead letter, which can be redriven
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucky.cloudevents import CloudEvent, utc_now
from bucky.errors import (
    BuckyError,
    DestinationUnavailable,
    IndexUnavailable,
    Permanent,
    Retriable,
    StoreUnavailable,
)
from bucky.events import (
    Delivery,
    InstanceStored,
    ProcessingCompleted,
    ProcessingFailed,
    ProcessingRequested,
    payload_of,
)
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryRow, DeliveryState, Index
from bucky.serve.contract import BatchResult, ItemFailure
from bucky.serve.handlers import Context, HandlerDependency, register
from bucky.settings import Settings
from bucky.store.barrier import Barrier
from bucky.store.objects import ObjectStore
from bucky.trace import trace_id
from process_instances.calls import FunctionCalls
from process_instances.giving import Giving
from process_instances.results import Keeper, Results

register(
    "calls",
    HandlerDependency(
        "process_instances.calls.FunctionCalls",
        lambda settings: FunctionCalls(settings.gateway_url),
        close=lambda calls: calls.close(),
    ),
)

BATCH_SECONDS = 20.0
"""No function is called later than this: an urgent one may be waiting for the end of the batch."""
_NOT_TRIED = (DestinationUnavailable, IndexUnavailable, StoreUnavailable)
NO_TIME_LEFT = "there was no time left for it in its batch"


@dataclass(frozen=True, slots=True)
class _Request:
    """What to give to which function, and the event that asked for it."""

    cause: CloudEvent
    delivery: ProcessingRequested


@dataclass(frozen=True, slots=True)
class _Done:
    """How one ended: `error` is None when the function answered; `tried` is whether it was given anything.

    `asked` is whether it was called, be it in vain: what the index counts as an attempt.
    """

    request: _Request
    stored: tuple[InstanceStored, ...] = ()
    as_given: int = 0
    error: BuckyError | None = None
    tried: bool = True
    asked: bool = True
    seconds: float = 0.0

    @property
    def outcome(self) -> AttemptOutcome:
        """Return what the index is told."""
        if self.error is None:
            return AttemptOutcome.DELIVERED
        return AttemptOutcome.RETRYING if isinstance(self.error, Retriable) else AttemptOutcome.FAILED

    @property
    def said(self) -> str:
        """Return what the function answered, which may name a patient."""
        if self.error is not None:
            return str(getattr(self.error, "detail", ""))
        unchanged = f", {self.as_given} came back as given" if self.as_given else ""
        return f"{len(self.stored)} result{'' if len(self.stored) == 1 else 's'}{unchanged}"


def handle_batch(
    events: Sequence[CloudEvent],
    ctx: Context,
    settings: Settings,
    objects: ObjectStore,
    index: Index,
    barrier: Barrier,
    calls: FunctionCalls,
) -> BatchResult:
    """Call each function that has not answered yet, one after the other; trouble of our own is no attempt."""
    try:
        return _Batch(ctx, settings, objects, index, barrier, calls).carried_out(events)
    except Retriable as error:
        return BatchResult(failures=tuple(_failure(event, error, tried=False) for event in events), events=())


@dataclass(frozen=True, slots=True)
class _Batch:
    ctx: Context
    settings: Settings
    objects: ObjectStore
    index: Index
    barrier: Barrier
    calls: FunctionCalls

    def carried_out(self, events: Sequence[CloudEvent]) -> BatchResult:
        failures: list[ItemFailure] = []
        happened: list[CloudEvent] = []
        requests: dict[str, _Request] = {}
        for event in events:
            try:
                request = _read(event)
            except Permanent as error:
                failures.append(_failure(event, error))
            else:
                requests.setdefault(request.delivery.delivery_id, request)
        traces = {name: trace_id(request.cause.traceparent) for name, request in requests.items()}
        known = {name: trace for name, trace in traces.items() if trace is not None}
        pending = self.index.request_deliveries([one.delivery for one in requests.values()], known)
        done = self._called([requests[name] for name in pending])
        self._wait_for_barrier(done)
        self.index.delivery_attempted(
            [_attempt(one) for one in done], {one.request.delivery.delivery_id: one.stored for one in done}
        )
        for one in done:
            self._log(one)
            happened += self._events(one)
            if one.error is not None:
                failures.append(_failure(one.request.cause, one.error, tried=one.tried))
        for name in requests.keys() - set(pending):
            self._settled(requests[name], self.index.delivery(name), happened, failures)
        return BatchResult(failures=tuple(failures), events=tuple(happened))

    def _called(self, requests: Sequence[_Request]) -> list[_Done]:
        """Call until the time is up, or the function is not there."""
        deadline, left, done = time.monotonic() + BATCH_SECONDS, Retriable(NO_TIME_LEFT), []
        away: set[str] = set()
        for request in requests:
            function = request.delivery.destination
            if time.monotonic() > deadline or function in away:
                done.append(_Done(request, error=left, tried=False, asked=False))
                continue
            done.append(one := self._call(request))
            if isinstance(one.error, Retriable) and not one.tried:
                away.add(function)
                left = one.error
        return done

    def _call(self, request: _Request) -> _Done:
        began = time.monotonic()
        giving = None
        try:
            giving = Giving.of(request.delivery, self.index)
            with tempfile.TemporaryDirectory(prefix="bucky-process-") as folder:
                results = Results(Path(folder), giving.process.max_result_bytes, giving.received)
                self.calls.call(giving.process, giving.event(self.ctx, request.cause, self.objects), results)
                keeper = Keeper(self.objects, self.settings.store_bucket, giving.processed, utc_now)
                stored = keeper.keep(list(results.found.values()))
                return _Done(request, tuple(stored), results.as_given, seconds=time.monotonic() - began)
        except (Permanent, Retriable) as error:
            # What is ours, or away, was no attempt at what this is about.
            tried = giving is not None and not isinstance(error, _NOT_TRIED)
            asked = giving is not None
            return _Done(request, error=error, tried=tried, asked=asked, seconds=time.monotonic() - began)

    def _wait_for_barrier(self, done: Sequence[_Done]) -> None:
        """Return when all that was stored would survive a power cut."""
        if any(one.stored for one in done):
            try:
                asyncio.run(self.barrier.passed(time.monotonic()))
            except OSError as error:
                raise StoreUnavailable(f"the store's disk does not sync: {error.strerror}") from error

    def _events(self, one: _Done) -> list[CloudEvent]:
        cause, fields = one.request.cause, _fields(one.request)
        if one.error is None:
            stored = [self.ctx.event(each, cause) for each in one.stored]
            completed = ProcessingCompleted(**fields, completed_at=utc_now(), detail=one.said, results=len(one.stored))
            return [*stored, self.ctx.event(completed, cause)]
        if isinstance(one.error, Retriable):
            return []
        return [self.ctx.event(ProcessingFailed(**fields, failed_at=utc_now(), reason=str(one.error)), cause)]

    def _settled(
        self, request: _Request, row: DeliveryRow, happened: list[CloudEvent], failures: list[ItemFailure]
    ) -> None:
        """Answer again for what was settled before: whoever asked may have missed the first answer."""
        if row.state is DeliveryState.DELIVERED:
            stored = self.index.results_of(row.delivery_id)
            happened += [self.ctx.event(each, request.cause) for each in stored]
            completed = ProcessingCompleted(
                **_fields(request), completed_at=row.completed_at or row.updated_at, results=len(stored)
            )
            happened.append(self.ctx.event(completed, request.cause))
        elif row.state in {DeliveryState.REQUESTED, DeliveryState.RETRYING}:
            failures.append(_failure(request.cause, Retriable(row.reason or "it was sent again meanwhile")))
        elif row.state is not DeliveryState.DISMISSED:
            failures.append(_failure(request.cause, Permanent(row.reason)))

    def _log(self, one: _Done) -> None:
        delivery = one.request.delivery
        self.ctx.log.info(
            "processing.attempted",
            delivery_id=delivery.delivery_id,
            function=delivery.destination,
            study_instance_uid=delivery.instance.study_instance_uid,
            instances=delivery.unit_instances,
            outcome=one.outcome.value,
            results=len(one.stored),
            reason=str(one.error) if one.error else None,
            tried=one.tried,
            rule=delivery.rule,
            rule_version=delivery.rule_version,
            duration_ms=round(one.seconds * 1000, 1),
            trace_id=trace_id(one.request.cause.traceparent),
        )


def _read(event: CloudEvent) -> _Request:
    delivery = payload_of(event)
    if not isinstance(delivery, ProcessingRequested):
        raise Permanent(f"an event of type {event.type} asks for no function")
    return _Request(event, delivery)


def _attempt(one: _Done) -> DeliveryAttempt:
    reason = str(one.error) if one.error else ""
    return DeliveryAttempt(one.request.delivery.delivery_id, one.outcome, reason, one.said, tried=one.asked)


def _fields(request: _Request) -> dict[str, Any]:
    return {name: getattr(request.delivery, name) for name in Delivery.model_fields}


def _failure(event: CloudEvent, error: BuckyError, *, tried: bool = True) -> ItemFailure:
    retryable = isinstance(error, Retriable)
    return ItemFailure(
        item_identifier=event.id,
        retryable=retryable,
        retry_after=error.retry_after if isinstance(error, Retriable) else None,
        attempted=tried or not retryable,
        reason=str(error),
    )
