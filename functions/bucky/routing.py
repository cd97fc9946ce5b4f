"""Destinations and rules as validated data: what an administrator writes in YAML or through the API.

    destinations:
      - {name: pacs, type: dimse, aet: PACS, host: pacs.example.org, port: 104}
    rules:
      - name: ct-to-pacs
        when: {all: [{attribute: Modality, in: [CT, MR]}, {association: calling_aet, equals: CT1}]}
        morph: [{prepend: AccessionNumber, value: RX-}]
        destinations: [pacs]

`bucky.rules` has the rules and evaluates them, `bucky.morph` carries out their changes. An empty `when`
matches every instance. A disabled rule is not evaluated. A disabled destination gets no new deliveries;
those requested before are still carried out.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bucky.destinations import Destination
from bucky.errors import Permanent
from bucky.morph.actions import CrosswalkAction
from bucky.morph.crosswalks import Crosswalk
from bucky.rules.conflicts import ConflictRule
from bucky.rules.model import Rule


class InvalidRouting(Permanent):
    """The destinations and rules are not valid; the message names the first thing to put right."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Routing(_Model):
    """All destinations and rules: one version of them is stored, and in force, at a time."""

    destinations: tuple[Destination, ...] = ()
    crosswalks: tuple[Crosswalk, ...] = Field((), description="Lookup tables that rules change values by.")
    match: Literal["all", "first"] = Field(
        "all", description="Whether every rule that matches applies, or only the first of each trigger."
    )
    rules: tuple[Rule, ...] = ()
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
            document = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise InvalidRouting(f"the routing file is not valid YAML: {error}") from None
        try:
            return cls.model_validate(document or {})
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the routing file"
            raise InvalidRouting(f"{place}: {first['msg']}") from None

    def to_yaml(self) -> str:
        """Return the routing file that says the same."""
        document = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a routing file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Routing.model_json_schema(by_alias=True)}


def _unique(what: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the {what} {twice!r} is there twice")
