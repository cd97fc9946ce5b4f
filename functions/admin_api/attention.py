"""What needs attention: one list, for the API, the metrics, the command line and `bucky doctor`. Pure.

An item says what is wrong, since when, how much it concerns, what that means for the images, and what to do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, Field

from admin_api.health import PartHealth, TroubleFound
from bucky.index import Backlog, DeliveryState, Noticed, RoutingVersion
from bucky.text.wording import deliveries

RETRIED_FOR = timedelta(seconds=30)
WAITED_FOR = timedelta(minutes=10)
CRASHES = 3
REQUESTED = "dicom.delivery.requested."
URGENT = ".urgent"
NONE = Noticed(0, None)
# Letters about deliveries are counted by destination, from the index.
DELIVERING = frozenset({"forward-instances", "process-instances", "commit-deliveries"})


class Attention(BaseModel):
    """One thing that needs attention."""

    kind: str = Field(description="Its kind, for machines: the same in the metrics.")
    subject: str = Field(description="What it is about, such as a destination or a function; may be empty.")
    cause: str = Field(description="What is wrong.")
    since: datetime | None = Field(None, description="Since when, as far as it is known.")
    count: int = Field(1, description="How many it concerns.")
    effect: str = Field(description="What that means for the images.")
    command: str = Field(description="What to do next.")


@dataclass(frozen=True)
class Known:
    """What the list is made of; None is what cannot be known now, which a part that is down explains."""

    now: datetime
    parts: Mapping[str, PartHealth]
    trouble: Sequence[TroubleFound] = ()
    routing: RoutingVersion | None = None
    backlog: Sequence[Backlog] = ()
    conflicts: Noticed = NONE
    unmatched: Noticed = NONE
    letters: Mapping[str, Noticed] = field(default_factory=dict)
    """Dead letters by the function that made them."""


def needing_attention(known: Known) -> list[Attention]:
    """Return what needs attention, that which stops most first."""
    return [*_parts(known), *_functions(known), *_routing(known), *_destinations(known), *_dead(known), *_found(known)]


def _parts(known: Known) -> Iterator[Attention]:
    for one in known.trouble:
        yield Attention(
            kind="part_down" if one.state == "down" else "part_unwell",
            subject=one.part,
            cause=f"{one.part} is {'down' if one.state == 'down' else 'not well'}. {one.reason}".strip(),
            since=one.since,
            effect=one.effect or "it does not do its work",
            command=one.command,
        )


def _functions(known: Known) -> Iterator[Attention]:
    deployed = _detail(known, "functions", "functions")
    connected = _detail(known, "connector", "functions")
    for name in sorted(deployed.keys() | connected.keys()):
        cause = _function_trouble(name, deployed.get(name, {}), connected.get(name, {}))
        waiting = sum(one.get("pending") or 0 for one in connected.get(name, {}).get("consumers", ()))
        if cause:
            yield Attention(
                kind="function_down",
                subject=name,
                cause=cause,
                count=waiting,
                effect=f"what it is called for waits ({waiting} now); nothing is lost, and nothing goes on",
                command=f"faas-cli logs {name}",
            )
    if known.routing is not None and deployed:
        for name in sorted(known.routing.document.functions() - deployed.keys()):
            yield Attention(
                kind="function_missing",
                subject=name,
                cause=f"rules give instances to the function {name}, which is not deployed",
                effect="what it is to get waits, and becomes dead letters in the end",
                command="faas-cli deploy -f stack.yaml",
            )


def _function_trouble(name: str, deployed: Mapping[str, Any], connected: Mapping[str, Any]) -> str:
    wanted, ready = deployed.get("replicas") or 0, deployed.get("available") or 0
    restarts = deployed.get("restarts") or 0
    if connected.get("error"):
        return f"the function {name} gets no events, for its annotations are wrong: {connected['error']}"
    if restarts >= CRASHES or (restarts and ready < wanted):
        times = "once" if restarts == 1 else f"{restarts} times"
        return f"the function {name} ended by itself {times} in ten minutes; {ready} of {wanted} replicas are ready"
    if connected.get("breaker", "closed") != "closed":
        return f"the function {name} does not answer: {connected.get('last_error') or 'no reason is known'}"
    if ready < wanted:
        return f"the function {name} has {ready} of {wanted} replicas ready"
    return ""


def _routing(known: Known) -> Iterator[Attention]:
    if known.routing is None:
        return
    since, command = known.routing.created_at, "bucky routing apply FILE"
    routing = known.routing.document
    if not routing.leads_to():
        what = "there are no rules" if not routing.rules else "no rule in force leads to a destination that is enabled"
        effect = "new images are received and kept, and go nowhere"
        yield Attention(kind="no_rules", subject="", cause=what, since=since, effect=effect, command=command)
    if known.unmatched.count:
        yield Attention(
            kind="unmatched",
            subject="",
            cause="no rule matched some of the instances received in the last 24 hours",
            since=known.unmatched.since,
            count=known.unmatched.count,
            effect="they are kept, and were sent nowhere",
            command="bucky rules rehearse --from DATE --rules FILE",
        )


def _destinations(known: Known) -> Iterator[Attention]:
    held = _held(known)
    waiting: dict[str, list[Backlog]] = {}
    for one in known.backlog:
        if one.state in (DeliveryState.REQUESTED, DeliveryState.RETRYING):
            waiting.setdefault(one.destination, []).append(one)
    for name in sorted(waiting.keys() | held.keys()):
        cause = _destination_trouble(known, name, waiting.get(name, []), held.get(name))
        count = sum(one.count for one in waiting.get(name, ()))
        if cause:
            yield Attention(
                kind="destination_down",
                subject=name,
                cause=cause,
                since=min((one.since for one in waiting.get(name, ())), default=None),
                count=count,
                effect=_put_off(name, count),
                command=f"bucky deliveries --destination {name} --state retrying",
            )


def _put_off(name: str, count: int) -> str:
    """Say what becomes of what waits for a destination."""
    if not count:
        return f"nothing waits for {name} now; what comes for it waits until it works again"
    return f"{deliveries(count)} to {name} {'waits' if count == 1 else 'wait'} until it works again; nothing is lost"


def _destination_trouble(known: Known, name: str, waiting: Sequence[Backlog], held: str | None) -> str:
    destination = None if known.routing is None else known.routing.document.destination(name)
    if destination is not None and not destination.opening(known.now).is_open:
        return ""  # it waits for its hours, as it was told to
    if held:
        return f"the destination {name} takes nothing: {held}"
    retried = [one for one in waiting if one.state is DeliveryState.RETRYING and one.since < known.now - RETRIED_FOR]
    if retried:
        return f"deliveries to {name} fail and are tried again"
    if any(one.since < known.now - WAITED_FOR for one in waiting):
        return f"deliveries to {name} wait without having been tried"
    return ""


def _held(known: Known) -> dict[str, str]:
    """Return why the queue of each destination is held."""
    forwarding = _detail(known, "connector", "functions").get("forward-instances", {})
    return {
        consumer["subject"].removeprefix(REQUESTED).removesuffix(URGENT): consumer["held"]
        for consumer in forwarding.get("consumers", ())
        if consumer.get("held") and consumer["subject"].startswith(REQUESTED)
    }


def _dead(known: Known) -> Iterator[Attention]:
    dead: dict[str, list[Backlog]] = {}
    for one in known.backlog:
        if one.state in (DeliveryState.DEAD_LETTER, DeliveryState.FAILED):
            dead.setdefault(one.destination, []).append(one)
    for name, several in dead.items():
        gone = known.routing is not None and not known.routing.document.is_there(name)
        yield Attention(
            kind="dead_letters",
            subject=name,
            cause=f"deliveries to {name} were given up" + (", which is no destination any more" if gone else ""),
            since=min(one.since for one in several),
            count=sum(one.count for one in several),
            effect=f"{name} does not have them, and nobody tries again",
            command=f"bucky dead-letters {'dismiss --note WHY' if gone else 'list'} --destination {name}",
        )
    for name, letters in known.letters.items():
        if name not in DELIVERING:
            yield Attention(
                kind="dead_letters",
                subject=name,
                cause=f"the function {name} could not process some events",
                since=letters.since,
                count=letters.count,
                effect="what they are about went no further, and nobody tries again",
                command=f"bucky dead-letters list --function {name}",
            )


def _found(known: Known) -> Iterator[Attention]:
    if known.conflicts.count:
        yield Attention(
            kind="conflicts",
            subject="",
            cause="instances came whose SOP Instance UID was there already, with other content",
            since=known.conflicts.since,
            count=known.conflicts.count,
            effect="they are kept apart and not sent until somebody decides; those that were there count",
            command="bucky conflicts list",
        )
    for kind, count in (_detail(known, "keeper", "reconcile").get("found") or {}).items():
        if _detail(known, "keeper", "reconcile").get("wrong") and kind.startswith(("object_missing", "object_differs")):
            yield Attention(
                kind=kind,
                subject="",
                cause="the last reconciling found objects missing in the store, or of another size",
                count=count,
                effect="these instances are lost or damaged in the store; find them in a backup or at their sender",
                command="bucky reconcile --dry-run",
            )
    spool = _detail(known, "edge", "spool")
    if spool.get("quarantined"):
        yield Attention(
            kind="spool_quarantine",
            subject="edge",
            cause="the edge has put entries of its spool aside, because they cannot be stored as they are",
            count=int(spool["quarantined"]),
            effect="they were acknowledged, and are in the spool's folder alone",
            command="bucky doctor",
        )


def _detail(known: Known, part: str, name: str) -> Mapping[str, Any]:
    """Return what a part says of something, empty while it says nothing."""
    found = known.parts[part].detail.get(name) if part in known.parts else None
    return found if isinstance(found, dict) else {}
