"""What a function is given: one CloudEvent that names the instances, each with a link to fetch it by."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from bucky.cloudevents import CloudEvent
from bucky.errors import NotFound, Permanent
from bucky.events import Instance, Processing, ProcessingRequested, ReceivedInstance
from bucky.index import Index
from bucky.routing.provenance import MOST, in_words, together
from bucky.routing.rules import Process
from bucky.serve.handlers import Context
from bucky.serve.processing_input import EVENT_TYPE
from bucky.store.objects import ObjectStore
from bucky.text.identifiers import delivery_id, unit_sha256
from bucky.trace import child_of

MOST_INSTANCES = 10_000
# A function may fetch the last instance at the very end of its time.
LINK_GRACE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Giving:
    """The instances of one call, what the rule says of it, and when it was decided."""

    delivery: ProcessingRequested
    process: Process
    received: tuple[ReceivedInstance, ...]
    decided_at: datetime

    @classmethod
    def of(cls, delivery: ProcessingRequested, index: Index) -> Self:
        """Look up what a request is about; raise `Permanent` when that is not known any more, or not allowed."""
        process = _process(delivery, index)
        received = tuple(row.received() for row in index.given(delivery.delivery_id))
        if not received or unit_sha256(one.sha256 for one in received) != delivery.unit_sha256:
            raise Permanent(
                "the index does not know any more which instances the function was to get, or has lost some: it got "
                "none; replay the study"
            )
        if len(received) > MOST_INSTANCES:
            raise Permanent(f"a function is given {MOST_INSTANCES} instances at once, and these are {len(received)}")
        giving = cls(delivery, process, received, index.delivery(delivery.delivery_id).requested_at)
        behind = giving.processed[:-1]
        if len(behind) >= MOST:
            raise Permanent(
                f"it came out of {len(behind)} functions already ({in_words(behind)}), which is as many as there may "
                "be: rules seem to feed each other; give them a condition on `origin`"
            )
        return giving

    @property
    def processed(self) -> tuple[Processing, ...]:
        """Return the functions that the results will have come out of."""
        this = Processing(
            function=self.process.function,
            rule=self.delivery.rule,
            rule_version=self.delivery.rule_version,
            delivery_id=self.delivery.delivery_id,
        )
        return (*together(one.processed for one in self.received), this)

    def event(self, ctx: Context, cause: CloudEvent, objects: ObjectStore) -> CloudEvent:
        """Return the event that the function gets: the same at each attempt, but for the links."""
        delivery, seconds = self.delivery, self.process.timeout_seconds + LINK_GRACE_SECONDS
        data: dict[str, Any] = {
            "function": self.process.function,
            "rule": delivery.rule,
            "rule_version": delivery.rule_version,
            "parameters": self.process.parameters,
            "unit": delivery.unit,
            "study_instance_uid": delivery.instance.study_instance_uid,
            "instances": [
                {**{name: getattr(one, name) for name in Instance.model_fields}, "url": objects.link(one.key, seconds)}
                for one in self.received
            ],
        }
        return CloudEvent(
            id=delivery.delivery_id,
            source=f"/bucky/function/{ctx.function}",
            type=EVENT_TYPE,
            time=self.decided_at,
            datacontenttype="application/json",
            dataschema=f"urn:bucky:event:{EVENT_TYPE}:1",
            traceparent=child_of(cause.traceparent),
            data=data,
        )


def _process(delivery: ProcessingRequested, index: Index) -> Process:
    """Return what the rule that decided says of the call."""
    version, how = delivery.rule_version, delivery.morph_sha256
    if delivery.delivery_id != delivery_id(delivery.unit_sha256, delivery.destination, version, how):
        raise Permanent(
            "the request and its id do not agree on what a function is to get: it got nothing; replay the study"
        )
    try:
        rule = index.routing_version(version).document.rule(delivery.rule)
    except NotFound:
        rule = None
    process = rule.process if rule is not None else None
    if process is None or process.function != delivery.destination or process.parameters_sha256() != how:
        raise Permanent(
            f"rule {delivery.rule!r} of version {version} is not known any more, so neither is how it calls the "
            "function: it was not called; replay the study"
        )
    return process
