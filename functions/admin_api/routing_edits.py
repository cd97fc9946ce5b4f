"""Changing one destination or rule of a routing: pure functions that return the new, valid routing."""

from typing import Any

from pydantic import ValidationError

from bucky.errors import NotFound, Permanent
from bucky.routing.destinations import Destination
from bucky.routing.document import InvalidRouting, Routing
from bucky.routing.mistakes import in_a_sentence
from bucky.routing.rules import Rule


class InUse(Permanent):
    """The destination cannot go while rules name it."""


def find_destination(routing: Routing, name: str) -> Destination:
    """Return a destination, or raise `NotFound`."""
    found = routing.destination(name)
    if found is None:
        raise NotFound(f"There is no destination {name!r}.")
    return found


def find_rule(routing: Routing, name: str) -> Rule:
    """Return a rule, or raise `NotFound`."""
    for rule in routing.rules:
        if rule.name == name:
            return rule
    raise NotFound(f"There is no rule {name!r}.")


def with_destination(routing: Routing, name: str, destination: Destination) -> Routing:
    """Replace the destination of that name in its place, or add it at the end."""
    _same_name(name, destination.name)
    return _valid(routing, _put(routing.destinations, destination), routing.rules)


def without_destination(routing: Routing, name: str) -> Routing:
    """Remove a destination; raise `InUse` while rules name it."""
    find_destination(routing, name)
    users = [rule.name for rule in routing.rules if name in rule.destinations]
    if users:
        raise InUse(f"The destination {name!r} is named by the rules {', '.join(users)}; change those first.")
    return _valid(routing, tuple(one for one in routing.destinations if one.name != name), routing.rules)


def with_rule(routing: Routing, name: str, rule: Rule) -> Routing:
    """Replace the rule of that name in its place, or add it at the end."""
    _same_name(name, rule.name)
    return _valid(routing, routing.destinations, _put(routing.rules, rule))


def without_rule(routing: Routing, name: str) -> Routing:
    """Remove a rule."""
    find_rule(routing, name)
    return _valid(routing, routing.destinations, tuple(one for one in routing.rules if one.name != name))


def _put(existing: tuple[Any, ...], new: Any) -> tuple[Any, ...]:
    if all(one.name != new.name for one in existing):
        return (*existing, new)
    return tuple(new if one.name == new.name else one for one in existing)


def _same_name(asked: str, given: str) -> None:
    if asked != given:
        raise InvalidRouting(f"The address names {asked!r} but the body names {given!r}.")


def _valid(routing: Routing, destinations: tuple[Destination, ...], rules: tuple[Rule, ...]) -> Routing:
    try:
        return routing.changed(destinations=destinations, rules=rules)
    except ValidationError as error:
        raise InvalidRouting(in_a_sentence(error.errors(include_input=False, include_url=False)[0], None)) from None
