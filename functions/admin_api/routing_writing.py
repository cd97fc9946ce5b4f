"""Writing a version of the routing: on top of the one that was read, and with what it ends confirmed."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, HTTPException, Query, Response
from pydantic import BaseModel

from admin_api.failures import ErrorBody
from admin_api.parameters import IndexDep, PlacesDep
from admin_api.routing_effect import check_confirmed, effect_of
from bucky.errors import Conflict
from bucky.forwarding.places import Places
from bucky.index import Index
from bucky.routing.destinations import Destination, FolderDestination
from bucky.routing.document import InvalidRouting, Routing

AUTHOR = "admin-api"
CHANGED = "The routing has changed since you read it; read it again and repeat your change."
WRITES: dict[int | str, dict[str, object]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON, or says a thing twice."},
    409: {"model": ErrorBody, "description": "A rule names it, or the change ends deliveries and is not confirmed."},
    412: {"model": ErrorBody, "description": "The routing has changed since the version in `If-Match`."},
    428: {"model": ErrorBody, "description": "There is no `If-Match`."},
}


class WrittenVersion(BaseModel):
    """The version that a change made, and what in it cannot work as things are now."""

    version: int
    warnings: list[str] = []


def expected_version(
    if_match: Annotated[
        str | None, Header(description='The ETag of what you read, such as `"7"`; `"0"` while nothing was ever saved.')
    ] = None,
) -> int:
    """Return the version the client has read; answer 428 when it does not say, 412 when it cannot be."""
    if if_match is None:
        raise HTTPException(428, "Say which version you change: send its ETag as If-Match.")
    found = re.fullmatch(r'"(\d{1,9})"', if_match.strip(), re.ASCII)
    if found is None:
        raise HTTPException(412, CHANGED)
    return int(found[1])


@dataclass(frozen=True)
class Writing:
    """A change of the routing that was at a version; `response` gets the ETag of the new one."""

    index: Index
    expected: int
    confirm: bool
    response: Response
    places: Places

    def base(self) -> Routing:
        """Return the routing that is changed; answer 412 when it is not that any more."""
        current = self.index.routing()
        if current.version != self.expected:
            raise HTTPException(412, CHANGED)
        return current.document

    def save(self, routing: Routing, note: str = "") -> WrittenVersion:
        """Save a routing; answer 409 when it ends what nobody confirmed, 412 when somebody else was first.

        Raises `InvalidRouting` when a destination that it adds or changes may not be where it is.
        """
        base = self.base()
        new = [one for one in routing.destinations if one not in base.destinations]
        check_places(self.places, new)
        check_confirmed(effect_of(base, routing, self.index.backlog()), self.confirm)
        try:
            version = self.index.save_routing(routing, self.expected, AUTHOR, note)
        except Conflict:
            raise HTTPException(412, CHANGED) from None
        self.response.headers["ETag"] = f'"{version}"'
        return WrittenVersion(version=version, warnings=[*missing_folders(new)])


def check_places(places: Places, destinations: Sequence[Destination]) -> None:
    """Raise `InvalidRouting` for the first destination that may not be where it is."""
    # At once: a name server that does not answer is waited for once, not once for each.
    with ThreadPoolExecutor() as pool:
        for destination, refusal in zip(destinations, pool.map(places.refusal, destinations), strict=True):
            if refusal:
                raise InvalidRouting(f"The destination {destination.name} is refused: {refusal}.")


def missing_folders(destinations: Sequence[Destination]) -> Iterator[str]:
    """Say of each destination that is a folder which is not there, as far as this process sees folders."""
    for one in destinations:
        if isinstance(one, FolderDestination) and not one.folder.is_dir():
            yield (
                f"the folder {one.folder} of the destination {one.name} does not exist here: what is to go there waits "
                "until it is made or mounted"
            )


def _writing(
    index: IndexDep,
    expected: Annotated[int, Depends(expected_version)],
    response: Response,
    places: PlacesDep,
    confirm: Annotated[
        bool, Query(description="It is meant that waiting deliveries become dead letters, or that nothing is sent.")
    ] = False,
) -> Writing:
    return Writing(index, expected, confirm, response, places)


WritingDep = Annotated[Writing, Depends(_writing)]
