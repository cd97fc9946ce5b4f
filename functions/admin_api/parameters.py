"""What endpoints may declare as parameters: the parts of the process, found on the application's state."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, AwareDatetime

from admin_api.broker_link import BrokerConnection
from admin_api.dead_letters import DeadLetterBox
from admin_api.health import HealthBoard
from admin_api.watch import Watch
from bucky.forwarding.places import Places
from bucky.index import Index
from bucky.routing.crosswalk import Crosswalks
from bucky.store.objects import ObjectStore


def _index(request: Request) -> Any:
    return request.app.state.index


def _objects(request: Request) -> Any:
    return request.app.state.objects


def _dead_letters(request: Request) -> Any:
    return request.app.state.dead_letters


def _health(request: Request) -> Any:
    return request.app.state.health


def _watch(request: Request) -> Any:
    return request.app.state.watch


def _link(request: Request) -> Any:
    return request.app.state.link


def _crosswalks(request: Request) -> Any:
    return request.app.state.crosswalks


def _places(request: Request) -> Any:
    return request.app.state.places


IndexDep = Annotated[Index, Depends(_index)]
ObjectsDep = Annotated[ObjectStore, Depends(_objects)]
DeadLettersDep = Annotated[DeadLetterBox, Depends(_dead_letters)]
WatchDep = Annotated[Watch, Depends(_watch)]
HealthDep = Annotated[HealthBoard, Depends(_health)]
LinkDep = Annotated[BrokerConnection, Depends(_link)]
PlacesDep = Annotated[Places, Depends(_places)]
CrosswalksDep = Annotated[Crosswalks, Depends(_crosswalks)]

Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the data set bytes.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most items to return.")]
Offset = Annotated[int, Query(ge=0, le=10_000_000, description="Items to skip.")]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it is before the year 1, or after 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
