"""Dead letters: the list, one whole, sending them again, and dismissing them."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from admin_api.answers import Dismissed, Page, Redriven
from admin_api.dead_letters import NOT_OURS, DeadLetterBox, Filter, Group, StoredDeadLetter
from admin_api.dismissal import dismiss_letters, dismiss_without_letters
from admin_api.parameters import DeadLettersDep, IndexDep, Moment
from admin_api.redrive import redrive_letters
from admin_api.strict_route import StrictRoute
from bucky.errors import NotFound, Permanent

CHOSEN_AT_ONCE = 500
MOST_GROUPS = 200

routes = APIRouter(tags=["dead letters"], route_class=StrictRoute)

Sequence = Annotated[int, Path(ge=1, le=2**53, description="Sequence in the stream DEADLETTERS.")]
Word = Annotated[str, Query(max_length=256)]


class ListedDeadLetter(BaseModel):
    """A dead letter and why it is one; what it is about is there where it could be read."""

    sequence: int
    recorded_at: datetime
    function: str
    reason: str
    attempts: int
    subject: str
    event_type: str
    event_id: str
    delivery_id: str | None
    destination: str | None
    study_instance_uid: str | None
    sop_instance_uid: str | None
    sha256: str | None


class WholeDeadLetter(ListedDeadLetter):
    """A dead letter with the event that could not be processed."""

    event: dict[str, Any]


class Choice(BaseModel):
    """Which dead letters are meant: those named, or those that match every field given."""

    model_config = ConfigDict(extra="forbid")
    sequences: list[Annotated[int, Field(ge=1, le=2**53)]] = Field(default=[], max_length=CHOSEN_AT_ONCE)
    function: str = Field(default="", max_length=256)
    destination: str = Field(default="", max_length=256)
    reason: str = Field(default="", max_length=256, description="Part of the reason.")
    study: str = Field(default="", max_length=64, description="Study Instance UID.")
    since: Moment | None = Field(default=None, description="Only those recorded then or later.")
    until: Moment | None = Field(default=None, description="Only those recorded before.")
    all: bool = Field(default=False, description="Every dead letter, when nothing else is given.")
    before: int | None = Field(default=None, ge=1, le=2**53, description="Only those older than this sequence.")


class RedriveOrder(Choice):
    """Which dead letters to send again."""


class DismissOrder(Choice):
    """Which dead letters are not to be sent any more, and why."""

    note: str = Field(min_length=1, max_length=1000, description="Why; it is on the timeline.")


class DeadLetterSummary(BaseModel):
    """Dead letters by function, destination and reason; `complete` unless there are too many to look at."""

    groups: list[Group]
    complete: bool


def _filter(
    function: Word = "",
    destination: Word = "",
    reason: Word = "",
    study: Annotated[str, Query(pattern=r"^[0-9.]{0,64}$", description="Study Instance UID.")] = "",
    since: Annotated[Moment | None, Query(description="Recorded then or later.")] = None,
    until: Annotated[Moment | None, Query(description="Recorded before.")] = None,
) -> Filter:
    return Filter(function, destination, reason, study, since, until)


FilterDep = Annotated[Filter, Depends(_filter)]


@routes.get("/api/dead-letters")
async def list_dead_letters(
    box: DeadLettersDep,
    wanted: FilterDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=1, le=2**53, description="Older than this sequence.")] = None,
) -> Page[ListedDeadLetter, int]:
    """Return dead letters, the newest first; a page may be short and yet have a `next`."""
    page = await box.page(wanted, limit, before)
    return Page(items=[ListedDeadLetter(**_listed(letter)) for letter in page.letters], next=page.before)


@routes.get("/api/dead-letters/summary")
async def summarise(box: DeadLettersDep, wanted: FilterDep) -> DeadLetterSummary:
    """Return how many dead letters there are for each reason, the most frequent first."""
    groups, complete = await box.groups(wanted, MOST_GROUPS)
    return DeadLetterSummary(groups=groups, complete=complete)


@routes.get("/api/dead-letters/{sequence}")
async def get_dead_letter(sequence: Sequence, box: DeadLettersDep) -> WholeDeadLetter:
    """Return one dead letter whole."""
    letter = await box.get(sequence)
    return WholeDeadLetter(**_listed(letter), event=letter.content.event if letter.content else {})


@routes.post("/api/dead-letters/{sequence}/redrive")
async def redrive_one(sequence: Sequence, box: DeadLettersDep, index: IndexDep) -> Redriven:
    """Send one dead letter's event again."""
    for error in (await redrive_letters(box, index, [await box.get(sequence)])).values():
        raise error
    return Redriven(redriven=[str(sequence)], failed={})


@routes.post("/api/dead-letters/redrive")
async def redrive_many(order: RedriveOrder, box: DeadLettersDep, index: IndexDep) -> Redriven:
    """Send many again, at most 500 at a time; while there is a `next`, ask again with it."""
    letters, missing, more = await _chosen(order, box)
    failures = await redrive_letters(box, index, letters)
    return Redriven(redriven=_done(letters, failures), failed=missing | _said(failures), next=more)


@routes.post("/api/dead-letters/dismiss")
async def dismiss_many(order: DismissOrder, box: DeadLettersDep, index: IndexDep) -> Dismissed:
    """Say that some need not be sent any more, at most 500 at a time; while there is a `next`, ask again with it.

    Only those whose destination is not in the routing any more, or in place of whose bytes others were accepted: with
    a destination that is there, they can be sent.
    """
    letters, missing, more = await _chosen(order, box)
    failures = await dismiss_letters(box, index, letters, order.note)
    dismissed = _done(letters, failures)
    if more is None and not order.sequences and Filter(destination=order.destination) == _filter_of(order):
        dismissed += await asyncio.to_thread(dismiss_without_letters, index, order.destination, order.note)
    return Dismissed(dismissed=dismissed, failed=missing | _said(failures), next=more)


async def _chosen(order: Choice, box: DeadLetterBox) -> tuple[list[StoredDeadLetter], dict[str, str], int | None]:
    """Return the letters that are meant, the oldest first, why those that are named are not there, and the `next`."""
    if order.sequences:
        return await _named(order.sequences, box)
    wanted = _filter_of(order)
    if wanted == Filter() and not order.all:
        raise Permanent("Say which dead letters are meant: sequences, a filter, or all.")
    page = await box.page(wanted, CHOSEN_AT_ONCE, order.before)
    return list(reversed(page.letters)), {}, page.before


async def _named(sequences: list[int], box: DeadLetterBox) -> tuple[list[StoredDeadLetter], dict[str, str], int | None]:
    letters, missing = [], {}
    for sequence in dict.fromkeys(sequences):
        try:
            letters.append(await box.get(sequence))
        except NotFound as error:
            missing[str(sequence)] = str(error)
    return letters, missing, None


def _filter_of(order: Choice) -> Filter:
    return Filter(order.function, order.destination, order.reason, order.study, order.since, order.until)


def _done(letters: list[StoredDeadLetter], failures: dict[int, Permanent]) -> list[str]:
    return [str(letter.sequence) for letter in letters if letter.sequence not in failures]


def _said(failures: dict[int, Permanent]) -> dict[str, str]:
    return {str(sequence): str(error) for sequence, error in failures.items()}


def _listed(letter: StoredDeadLetter) -> dict[str, Any]:
    content, event, instance = letter.content, letter.event, letter.instance
    return {
        "sequence": letter.sequence,
        "recorded_at": letter.recorded_at,
        "function": content.function if content else "",
        "reason": content.reason if content else NOT_OURS,
        "attempts": content.attempts if content else 0,
        "subject": content.subject if content else letter.subject,
        "event_type": event.type if event else "",
        "event_id": event.id if event else "",
        "delivery_id": letter.delivery.delivery_id if letter.delivery else None,
        "destination": letter.delivery.destination if letter.delivery else None,
        "study_instance_uid": instance.study_instance_uid if instance else None,
        "sop_instance_uid": instance.sop_instance_uid if instance else None,
        "sha256": instance.sha256 if instance else None,
    }
