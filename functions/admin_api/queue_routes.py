"""What waits, for whom, why, and until when: the connector's consumers as an operator sees them."""

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from admin_api.parameters import HealthDep
from admin_api.strict_route import StrictRoute
from bucky.errors import Retriable

routes = APIRouter(tags=["queues"], route_class=StrictRoute)

State = Literal["goes", "held", "down", "invalid"]


class Queue(BaseModel):
    """One queue of one function, such as that of one destination."""

    function: str
    subject: str
    priority: str
    waiting: int | None = Field(description="Not handed out yet; null while the broker does not say.")
    in_hand: int | None = Field(description="Handed out and not settled: being sent, or to be tried again.")
    state: State = Field(
        description="`held`: what it leads to is away, closed or busy. `down`: the function itself does not answer. "
        "`invalid`: its annotations are wrong."
    )
    why: str
    until: datetime | None


class ConnectorUnavailable(Retriable):
    """The connector does not say how its queues are."""


@routes.get("/api/queues")
async def list_queues(board: HealthDep) -> list[Queue]:
    """Return every queue, with what holds it."""
    part = await board.part("connector")
    if part.status == "down":
        raise ConnectorUnavailable(f"The connector cannot say what waits. {part.reason} Nothing is lost meanwhile.")
    functions: dict[str, dict[str, Any]] = part.detail.get("functions", {})
    return [queue for name, function in sorted(functions.items()) for queue in _queues(name, function)]


def _queues(name: str, function: dict[str, Any]) -> list[Queue]:
    if function["error"]:
        return [_queue(name, {"subject": ""}, "invalid", function["error"])]
    down = function["breaker"] != "closed"
    queues = []
    for consumer in sorted(function["consumers"], key=lambda consumer: str(consumer["subject"])):
        if consumer["held"]:
            queues.append(_queue(name, consumer, "held", consumer["held"], consumer["held_until"]))
        elif down:
            queues.append(_queue(name, consumer, "down", function["last_error"] or ""))
        else:
            queues.append(_queue(name, consumer, "goes", consumer["last_error"] or ""))
    return queues


def _queue(name: str, consumer: dict[str, Any], state: State, why: str, until: datetime | None = None) -> Queue:
    return Queue(
        function=name,
        subject=consumer["subject"],
        priority=consumer.get("priority", ""),
        waiting=consumer.get("pending"),
        in_hand=consumer.get("ack_pending"),
        state=state,
        why=why,
        until=until,
    )
