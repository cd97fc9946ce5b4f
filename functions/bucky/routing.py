"""Destinations and rules as validated data: what an administrator writes in YAML or through the API.

    destinations:
      - {name: pacs, type: dimse, aet: PACS, host: pacs.example.org, port: 104}
    rules:
      - name: ct-to-pacs
        when: {all: [{attribute: Modality, in: [CT, MR]}, {association: calling_aet, equals: CT1}]}
        destinations: [pacs]

`bucky.rules` evaluates the conditions. An empty `when` matches every instance. A disabled rule is not
evaluated. A disabled destination gets no new deliveries; those requested before are still carried out.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import re2
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydicom.datadict import tag_for_keyword

from bucky.errors import Permanent

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,39}$"
AET_PATTERN = r"^[^\\\x00-\x1f\x7f-\uffff]{1,16}$"
MAX_DEPTH = 16
MAX_PATTERN_LENGTH = 500

Operand = (
    Annotated[str, Field(max_length=1024)]
    | Annotated[int, Field(strict=True)]
    | Annotated[float, Field(strict=True, allow_inf_nan=False)]
)


class InvalidRouting(Permanent):
    """The destinations and rules are not valid; the message names the first thing to put right."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class DimseDestination(_Model):
    """A DICOM node that takes C-STORE (PS3.4 Annex B)."""

    name: str = Field(pattern=NAME_PATTERN)
    type: Literal["dimse"]
    aet: str = Field(pattern=AET_PATTERN)
    host: str = Field(min_length=1, max_length=253)
    port: int = Field(ge=1, le=65535)
    calling_aet: str = Field(default="BUCKY", pattern=AET_PATTERN)
    max_associations: int = Field(default=2, ge=1, le=32)
    timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    tls_ca_file: Path | None = None
    enabled: bool = True


# Further types (STOW-RS, S3, folder) join here as a union discriminated by `type`.
Destination = DimseDestination


class _Test(_Model):
    """A test of one value: exactly one operator."""

    equals: Operand | None = None
    in_: Annotated[tuple[Operand, ...], Field(min_length=1, max_length=1000)] | None = Field(None, alias="in")
    contains: str | None = Field(default=None, min_length=1, max_length=1024)
    regex: str | None = Field(default=None, min_length=1, max_length=MAX_PATTERN_LENGTH)
    exists: bool | None = None
    gt: Operand | None = None
    ge: Operand | None = None
    lt: Operand | None = None
    le: Operand | None = None

    @model_validator(mode="after")
    def _one_operator(self) -> Self:
        if len(self.operators()) != 1:
            raise ValueError("a condition needs exactly one of: " + ", ".join(OPERATORS))
        return self

    @field_validator("regex")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re2.compile(pattern, re2_options())
            except re2.error as error:
                raise ValueError(f"not a valid RE2 pattern: {error}") from None
        return pattern

    def operators(self) -> dict[str, Any]:
        """Return the operators that are set, by the name they have in YAML."""
        values = {name: getattr(self, "in_" if name == "in" else name) for name in OPERATORS}
        return {name: value for name, value in values.items() if value is not None}


OPERATORS = ("equals", "in", "contains", "regex", "exists", "gt", "ge", "lt", "le")


class AttributeTest(_Test):
    """A test of one DICOM attribute, by keyword (`Modality`) or tag (`00080060`, `0008,0060`)."""

    attribute: str

    @field_validator("attribute")
    @classmethod
    def _known(cls, attribute: str) -> str:
        attribute_tag(attribute)
        return attribute

    @property
    def tag(self) -> str:
        """The tag as eight hexadecimal digits, as in the DICOM JSON model (PS3.18 §F.2.2)."""
        return attribute_tag(self.attribute)


class AssociationTest(_Test):
    """A test of the association that brought the instance."""

    association: Literal["calling_aet", "called_aet", "source_address"]


class AllOf(_Model):
    """Every condition holds."""

    all: tuple["Condition", ...] = Field(min_length=1, max_length=100)


class AnyOf(_Model):
    """At least one condition holds."""

    any: tuple["Condition", ...] = Field(min_length=1, max_length=100)


class Not(_Model):
    """The condition does not hold."""

    not_: "Condition" = Field(alias="not")


class Always(_Model):
    """Matches every instance: written as an empty `when`."""


def _kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else type(value).model_fields
    for key in ("all", "any", "not", "attribute", "association"):
        if key in keys or f"{key}_" in keys:
            return key
    return "always"


Condition = Annotated[
    Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[Not, Tag("not")]
    | Annotated[AttributeTest, Tag("attribute")]
    | Annotated[AssociationTest, Tag("association")]
    | Annotated[Always, Tag("always")],
    Discriminator(_kind),
]


class Rule(_Model):
    """Where instances go, and when."""

    name: str = Field(pattern=NAME_PATTERN)
    enabled: bool = True
    trigger: Literal["instance"] = "instance"
    quiet_seconds: float | None = Field(
        None,
        ge=1,
        le=7 * 86400,
        description="How long nothing must have come for a series or study to be stable for this rule; without it, "
        "`BUCKY_STUDY_QUIET_SECONDS`.",
    )
    when: Condition = Always()
    destinations: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _not_too_deep(self) -> Self:
        if _depth(self.when) > MAX_DEPTH:
            raise ValueError(f"conditions may be nested {MAX_DEPTH} deep")
        return self


class Routing(_Model):
    """All destinations and rules: one version of them is stored, and in force, at a time."""

    destinations: tuple[Destination, ...] = ()
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = [destination.name for destination in self.destinations]
        _unique("destination", known)
        _unique("rule", [rule.name for rule in self.rules])
        for rule in self.rules:
            _unique(f"destination of rule {rule.name!r}", list(rule.destinations))
            for name in rule.destinations:
                if name not in known:
                    raise ValueError(f"rule {rule.name!r} names the destination {name!r}, which does not exist")
        return self

    def destination(self, name: str) -> Destination | None:
        """Return the destination with this name."""
        return next((one for one in self.destinations if one.name == name), None)

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


def attribute_tag(attribute: str) -> str:
    """Return the tag of a keyword or tag as eight hexadecimal digits; raise `ValueError` when there is none."""
    digits = attribute.strip("()").replace(",", "")
    if len(digits) == 8 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
        return digits.upper()
    tag = tag_for_keyword(attribute)
    if tag is None:
        raise ValueError(f"{attribute!r} is neither a DICOM keyword nor a tag such as 00080060")
    return f"{tag:08X}"


def _depth(condition: Condition) -> int:
    if isinstance(condition, AllOf):
        return 1 + max(map(_depth, condition.all))
    if isinstance(condition, AnyOf):
        return 1 + max(map(_depth, condition.any))
    if isinstance(condition, Not):
        return 1 + _depth(condition.not_)
    return 1


def _unique(what: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the {what} {twice!r} is there twice")


def re2_options() -> re2.Options:
    """Return the options every pattern is compiled with: bounded memory, silent."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    return options
