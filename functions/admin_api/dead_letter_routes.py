"""Dead letters: the list, one whole, and sending them again."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from admin_api.answers import Page, Redriven
from admin_api.dead_letters import DeadLetter, DeadLetterBox, Filter
from admin_api.parameters import DeadLettersDep, IndexDep
from admin_api.redrive import redrive_letter
from bucky.errors import NotFound, Permanent
from bucky.events import ReceivedInstance
from bucky.index import Index

REDRIVE_AT_ONCE = 500

routes = APIRouter(tags=["dead letters"])

Sequence = Annotated[int, Path(ge=1, le=2**53, description="Sequence in the stream DEADLETTERS.")]
Word = Annotated[str, Query(max_length=256)]


class ListedDeadLetter(BaseModel):
    """A dead letter and why it is one; what it is about is there where it could be read."""

    sequence: int
    recorded_at: datetime | None
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


class RedriveOrder(BaseModel):
    """Which dead letters to send again: those named, or those that match every field given."""

    model_config = ConfigDict(extra="forbid")
    sequences: list[Annotated[int, Field(ge=1, le=2**53)]] = Field(default=[], max_length=REDRIVE_AT_ONCE)
    function: str = Field(default="", max_length=256)
    destination: str = Field(default="", max_length=256)
    reason: str = Field(default="", max_length=256, description="Part of the reason.")
    all: bool = Field(default=False, description="Every dead letter, when nothing else is given.")
    before: int | None = Field(default=None, ge=1, le=2**53, description="Only those older than this sequence.")


@routes.get("/api/dead-letters")
async def list_dead_letters(
    box: DeadLettersDep,
    function: Word = "",
    destination: Word = "",
    reason: Word = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=1, le=2**53, description="Older than this sequence.")] = None,
) -> Page[ListedDeadLetter, int]:
    """Return dead letters, the newest first; a page may be short and yet have a `next`."""
    page = await box.page(Filter(function, destination, reason), limit, before)
    return Page(items=[ListedDeadLetter(**_listed(letter)) for letter in page.letters], next=page.before)


@routes.get("/api/dead-letters/{sequence}")
async def get_dead_letter(sequence: Sequence, box: DeadLettersDep) -> WholeDeadLetter:
    """Return one dead letter whole."""
    letter = await box.get(sequence)
    return WholeDeadLetter(**_listed(letter), event=letter.content.event if letter.content else {})


@routes.post("/api/dead-letters/{sequence}/redrive")
async def redrive_one(sequence: Sequence, box: DeadLettersDep, index: IndexDep) -> Redriven:
    """Send one dead letter's event again."""
    await redrive_letter(box, index, await box.get(sequence))
    return Redriven(redriven=[str(sequence)], failed={})


@routes.post("/api/dead-letters/redrive")
async def redrive_many(order: RedriveOrder, box: DeadLettersDep, index: IndexDep) -> Redriven:
    """Send many again, at most 500 at a time; while there is a `next`, ask again with it."""
    if order.sequences:
        return await _redrive_named(order.sequences, box, index)
    wanted = Filter(order.function, order.destination, order.reason)
    if wanted == Filter() and not order.all:
        raise Permanent("Say which dead letters to send again: sequences, a filter, or all.")
    page = await box.page(wanted, REDRIVE_AT_ONCE, order.before)
    redriven, failed = await _redrive(list(reversed(page.letters)), box, index)
    return Redriven(redriven=redriven, failed=failed, next=page.before)


async def _redrive_named(sequences: list[int], box: DeadLetterBox, index: Index) -> Redriven:
    letters, missing = [], {}
    for sequence in dict.fromkeys(sequences):
        try:
            letters.append(await box.get(sequence))
        except NotFound as error:
            missing[str(sequence)] = str(error)
    redriven, failed = await _redrive(letters, box, index)
    return Redriven(redriven=redriven, failed=missing | failed)


async def _redrive(letters: list[DeadLetter], box: DeadLetterBox, index: Index) -> tuple[list[str], dict[str, str]]:
    redriven: list[str] = []
    failed: dict[str, str] = {}
    for letter in letters:
        try:
            await redrive_letter(box, index, letter)
        except Permanent as error:
            failed[str(letter.sequence)] = str(error)
        else:
            redriven.append(str(letter.sequence))
    return redriven, failed


def _listed(letter: DeadLetter) -> dict[str, Any]:
    content, event, instance = letter.content, letter.event, _instance(letter)
    return {
        "sequence": letter.sequence,
        "recorded_at": letter.recorded_at,
        "function": content.function if content else "",
        "reason": content.reason if content else "This message is not a dead letter as Bucky writes them.",
        "attempts": content.attempts if content else 0,
        "subject": content.subject if content else letter.subject,
        "event_type": event.type if event else "",
        "event_id": event.id if event else "",
        "delivery_id": letter.delivery.delivery_id if letter.delivery else None,
        "destination": letter.delivery.destination if letter.delivery else None,
        "study_instance_uid": instance.get("study_instance_uid"),
        "sop_instance_uid": instance.get("sop_instance_uid"),
        "sha256": instance.get("sha256"),
    }


def _instance(letter: DeadLetter) -> dict[str, Any]:
    if letter.delivery is not None:
        return letter.delivery.instance.model_dump()
    try:
        return ReceivedInstance.model_validate(letter.event.data if letter.event else None).model_dump()
    except ValueError:
        return {}
