"""Destinations and rules as validated data: what an administrator writes in YAML or through the API.

    destinations:
      - {name: pacs, type: dimse, aet: PACS, host: pacs.example.org, port: 104}
    rules:
      - name: ct-to-pacs
        when: {all: [{attribute: Modality, in: [CT, MR]}, {association: calling_aet, equals: CT1}]}
        morph: [{prepend: AccessionNumber, value: RX-}]
        destinations: [pacs]

`bucky.routing` has the rules and evaluates them, `bucky.morph` carries out their changes. An empty `when`
matches every instance. A disabled rule is not evaluated. A disabled destination gets no new deliveries;
those requested before are still carried out.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bucky.errors import Permanent
from bucky.routing.changes import CrosswalkAction
from bucky.routing.conflicts import ConflictRule
from bucky.routing.crosswalk import Crosswalk
from bucky.routing.destinations import Destination
from bucky.routing.mistakes import in_a_sentence
from bucky.routing.rules import Rule
from bucky.text.documents import InvalidDocument, line_of, read_yaml

MOST_RULES = 2000
# The connector gives each destination a consumer, urgent deliveries another.
MOST_DESTINATIONS = 250
MOST_CROSSWALKS = 250


class InvalidRouting(Permanent):
    """The destinations and rules are not valid; the message names the first thing to put right."""


NOT_APPLIED = (
    "As a routing it would leave nothing to send to: what waits would become dead letters, and new images would go "
    "nowhere. To stop sending, set `enabled: false` on rules or destinations"
)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Routing(_Model):
    """All destinations and rules: one version of them is stored, and in force, at a time."""

    destinations: tuple[Destination, ...] = Field((), max_length=MOST_DESTINATIONS)
    crosswalks: tuple[Crosswalk, ...] = Field(
        (), max_length=MOST_CROSSWALKS, description="Lookup tables that rules change values by."
    )
    match: Literal["all", "first"] = Field(
        "all", description="Whether every rule that matches applies, or only the first of each trigger."
    )
    rules: tuple[Rule, ...] = Field((), max_length=MOST_RULES)
    conflicts: tuple[ConflictRule, ...] = Field(
        (), description="What is decided when an instance is sent again with other bytes; without a rule, nothing."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = [destination.name for destination in self.destinations]
        _unique("destination", known)
        _unique("rule", [rule.name for rule in self.rules])
        _unique("conflict rule", [rule.name for rule in self.conflicts])
        _unique("crosswalk", [crosswalk.name for crosswalk in self.crosswalks])
        for rule in self.rules:
            self._check_morph(rule)
            if rule.process is not None and rule.process.function in known:
                raise ValueError(
                    f"rule {rule.name!r} names the function {rule.process.function!r}, but a destination has that name"
                )
            if not rule.destinations and rule.process is None and self.match == "all":
                raise ValueError(
                    f"rule {rule.name!r} has no destinations; that keeps instances from later rules with match: first"
                )
            _unique(f"destination of rule {rule.name!r}", list(rule.destinations))
            for name in rule.destinations:
                if name not in known:
                    raise ValueError(f"rule {rule.name!r} names the destination {name!r}, which does not exist")
        return self

    def destination(self, name: str) -> Destination | None:
        """Return the destination with this name."""
        return next((one for one in self.destinations if one.name == name), None)

    def is_there(self, name: str) -> bool:
        """Return whether a destination, or a function that rules call, has this name."""
        return self.destination(name) is not None or name in self.functions()

    def changed(self, destinations: Sequence[Destination], rules: Sequence[Rule]) -> Self:
        """Return this routing with other destinations and rules; raise `ValidationError` when they do not fit."""
        everything = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**everything, "destinations": tuple(destinations), "rules": tuple(rules)})

    def rule(self, name: str) -> Rule | None:
        """Return the rule with this name."""
        return next((one for one in self.rules if one.name == name), None)

    def crosswalk(self, name: str) -> Crosswalk | None:
        """Return the crosswalk with this name."""
        return next((one for one in self.crosswalks if one.name == name), None)

    def leads_to(self) -> frozenset[str]:
        """Return the names of the enabled destinations, and of the functions, that enabled rules lead to."""
        enabled = {one.name for one in self.destinations if one.enabled}
        rules = [rule for rule in self.rules if rule.enabled]
        named = {name for rule in rules for name in rule.destinations} & enabled
        return frozenset(named | {rule.process.function for rule in rules if rule.process is not None})

    def functions(self) -> frozenset[str]:
        """Return the names of the functions that rules call."""
        return frozenset(rule.process.function for rule in self.rules if rule.process is not None)

    def morph_sha256(self, rule_name: str) -> str | None:
        """Return a digest of what a rule changes on the way: equal where the same is sent, None for no change."""
        rule = self.rule(rule_name)
        if rule is None or not rule.morph:
            return None
        tables = [self.crosswalk(action.table) for action in rule.morph if isinstance(action, CrosswalkAction)]
        said = [
            one.model_dump_json(by_alias=True, exclude_defaults=True)
            for one in (*rule.morph, *tables)
            if one is not None
        ]
        return hashlib.sha256("\n".join([rule.original_attributes, *said]).encode()).hexdigest()

    def _check_morph(self, rule: Rule) -> None:
        for action in rule.morph:
            if isinstance(action, CrosswalkAction) and self.crosswalk(action.table) is None:
                raise ValueError(f"rule {rule.name!r} names the crosswalk {action.table!r}, which does not exist")

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Read a routing file; raise `InvalidRouting` with a sentence that names the place."""
        try:
            document = read_yaml(text)
        except InvalidDocument as error:
            raise InvalidRouting(str(error)) from None
        if not document:
            raise InvalidRouting(f"the file is empty. {NOT_APPLIED}")
        try:
            routing = cls.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            if not isinstance(document, dict):
                raise InvalidRouting("the routing file is no mapping: it begins with `destinations:`") from None
            raise InvalidRouting(in_a_sentence(first, document, partial(line_of, text))) from None
        routing.check_leads_somewhere()
        return routing

    def check_leads_somewhere(self) -> None:
        """Raise `InvalidRouting` when there is nothing that instances could be sent or given to."""
        if not self.destinations and not self.functions():
            raise InvalidRouting(f"there is no destination in it. {NOT_APPLIED}")

    def to_yaml(self) -> str:
        """Return the routing file that says the same."""
        document = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a routing file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Routing.model_json_schema(by_alias=True)}


def _unique(what: str, names: list[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"the {what} {twice!r} is there twice")
