"""What a change of the routing does, in names and numbers: a pure function from two routings and what waits."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field

from bucky.errors import Permanent
from bucky.index import Backlog, DeliveryState
from bucky.routing.document import Routing
from bucky.text.wording import ended

WAITING = frozenset({DeliveryState.REQUESTED, DeliveryState.RETRYING, DeliveryState.UNCOMMITTED})


class NotConfirmed(Permanent):
    """The change would end deliveries, and nobody has said that it is meant to."""


class RoutingChange(BaseModel):
    """One destination, rule or crosswalk that is added, changed, removed or moved."""

    what: str
    name: str
    how: str


class RoutingEffect(BaseModel):
    """What a routing in place of another changes, and what it ends."""

    changes: list[RoutingChange]
    stops: list[str] = Field(description="Destinations, and functions, that get nothing new any more.")
    given_up: dict[str, int] = Field(
        description="Deliveries that wait, by destination, which become dead letters because the destination is gone."
    )
    leads_nowhere: bool = Field(description="Whether new images would go nowhere any more.")

    @property
    def losses(self) -> list[str]:
        """Say, a sentence each, what somebody must confirm."""
        said = [ended(name, count) for name, count in self.given_up.items()]
        return [*said, *(["new images go nowhere any more"] if self.leads_nowhere else [])]


def effect_of(before: Routing, after: Routing, backlog: Iterable[Backlog]) -> RoutingEffect:
    """Return what changes from one routing to another."""
    waiting: dict[str, int] = {}
    for one in backlog:
        if one.state in WAITING:
            waiting[one.destination] = waiting.get(one.destination, 0) + one.count
    gone = {one.name for one in before.destinations} - {one.name for one in after.destinations}
    return RoutingEffect(
        changes=[
            *_changes("destination", before.destinations, after.destinations),
            *_changes("crosswalk", before.crosswalks, after.crosswalks),
            *_changes("rule", before.rules, after.rules),
            *([RoutingChange(what="match", name=after.match, how="changed")] if before.match != after.match else []),
        ],
        stops=sorted(before.leads_to() - after.leads_to()),
        given_up={name: waiting[name] for name in sorted(gone) if name in waiting},
        leads_nowhere=bool(before.leads_to()) and not after.leads_to(),
    )


def check_confirmed(effect: RoutingEffect, confirmed: bool) -> None:
    """Raise `NotConfirmed` when the change ends deliveries and nobody said that it is meant to."""
    if effect.losses and not confirmed:
        raise NotConfirmed(
            f"Nothing was changed, for with this change {'; '.join(effect.losses)}. If that is meant, send it again "
            "with ?confirm=true."
        )


def _changes(what: str, before: tuple[Any, ...], after: tuple[Any, ...]) -> Iterable[RoutingChange]:
    old, new = _by_name(before), _by_name(after)
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in old:
            yield RoutingChange(what=what, name=name, how="added")
        elif name not in new:
            yield RoutingChange(what=what, name=name, how="removed")
        elif old[name] != new[name]:
            how = "disabled" if getattr(old[name], "enabled", False) and not new[name].enabled else "changed"
            yield RoutingChange(what=what, name=name, how=how)
    both = [name for name in old if name in new]
    if what == "rule" and both != [name for name in new if name in old]:
        yield RoutingChange(what=what, name=", ".join(new), how="in another order")


def _by_name(several: tuple[Any, ...]) -> dict[str, Any]:
    return {one.name: one for one in several}
