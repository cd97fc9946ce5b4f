"""The conditions of rules as validated data: tests of one value, nested in `all`, `any` and `not`.

{attribute: Modality, in: [CT, MR]}                                   an attribute of the instance
{attribute: RequestAttributesSequence.ScheduledProcedureStepID, …}    … in any item of a sequence
{association: source_address, network: 10.1.0.0/16}                   the association that brought it
{study: modalities, only: [CT, SR]}                                   its study, once that is stable
{series: instance_count, ge: 30}                                      its series, once that is stable
{origin: function, equals: deidentify}                                the functions that it came out of
"""

from ipaddress import ip_network
from typing import Annotated, Any, ClassVar, Literal, Self

import re2
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from bucky.dicom.element_vr import WRITABLE_VRS
from bucky.routing.attributes import Step, attribute_path, dictionary_vr
from bucky.routing.ordering import is_readable
from bucky.text.patterns import compiled

MAX_PATTERN_LENGTH = 500


Operand = (
    Annotated[str, Field(max_length=1024)]
    | Annotated[int, Field(strict=True)]
    | Annotated[float, Field(strict=True, allow_inf_nan=False)]
)
Operands = Annotated[tuple[Operand, ...], Field(min_length=1, max_length=1000)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class ValueTest(_Model):
    """A test of one value: exactly one operator. It holds when it holds for any of the values there are."""

    OPERATORS: ClassVar[tuple[str, ...]] = (
        "equals",
        "in",
        "only",
        "contains",
        "regex",
        "exists",
        "gt",
        "ge",
        "lt",
        "le",
    )

    equals: Operand | None = None
    in_: Operands | None = Field(None, alias="in", description="One of the values is one of these.")
    only: Operands | None = Field(None, description="There is a value, and every value is one of these.")
    contains: str | None = Field(None, min_length=1, max_length=1024, description="A value has this in it.")
    regex: str | None = Field(
        None, min_length=1, max_length=MAX_PATTERN_LENGTH, description="An RE2 pattern is found in a value."
    )
    exists: bool | None = Field(None, description="Whether it is there, even if empty.")
    gt: Operand | None = None
    ge: Operand | None = None
    lt: Operand | None = None
    le: Operand | None = None

    @model_validator(mode="after")
    def _one_operator(self) -> Self:
        if len(self.operators()) != 1:
            raise ValueError("a condition needs exactly one of: " + ", ".join(self.OPERATORS))
        return self

    @field_validator("regex")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                compiled(pattern)
            except re2.error as error:
                raise ValueError(f"not a valid RE2 pattern: {error}") from None
        return pattern

    def operators(self) -> dict[str, Any]:
        """Return the operators that are set, by the name they have in YAML."""
        values = {name: getattr(self, "in_" if name == "in" else name) for name in self.OPERATORS}
        return {name: value for name, value in values.items() if value is not None}


class AttributeTest(ValueTest):
    """A test of a DICOM attribute: a keyword (`Modality`), a tag (`00080060`, `0008,0060`), or a path of them."""

    attribute: str
    vr: str | None = Field(
        None,
        description="How to read it where it was sent without its VR, as private attributes are in implicit VR; "
        "without this, as text if it reads as text.",
    )

    @field_validator("vr")
    @classmethod
    def _has_values(cls, vr: str | None) -> str | None:
        if vr is not None and vr not in WRITABLE_VRS:
            raise ValueError(f"{vr!r} is not a VR of texts or numbers, such as LO or US")
        return vr

    @field_validator("attribute")
    @classmethod
    def _known(cls, attribute: str) -> str:
        attribute_path(attribute)
        return attribute

    @model_validator(mode="after")
    def _compares(self) -> Self:
        ((operator, operand),) = self.operators().items()
        vr = self.vr or dictionary_vr(self.path[-1].tag)
        if operator in {"gt", "ge", "lt", "le"} and not is_readable(operand, vr):
            raise ValueError(f"{operand!r} is no value of VR {vr}, the VR of {self.attribute}")
        return self

    @property
    def path(self) -> tuple[Step, ...]:
        """The steps to the attribute."""
        return attribute_path(self.attribute)


class AssociationTest(ValueTest):
    """A test of the association that brought the instance."""

    OPERATORS: ClassVar[tuple[str, ...]] = (*ValueTest.OPERATORS, "network")

    association: Literal["calling_aet", "called_aet", "source_address", "listener"]
    network: str | tuple[str, ...] | None = Field(
        None, description="The source address is in this network, or one of these (CIDR)."
    )

    @model_validator(mode="after")
    def _networks(self) -> Self:
        if self.network is not None and self.association != "source_address":
            raise ValueError("`network` goes with `association: source_address`")
        for network in self.networks():
            try:
                ip_network(network, strict=False)
            except ValueError:
                raise ValueError(f"{network!r} is not a network such as 10.1.0.0/16 or fd00::/8") from None
        return self

    def networks(self) -> tuple[str, ...]:
        """Return the networks asked for."""
        return (self.network,) if isinstance(self.network, str) else self.network or ()


class StudyTest(ValueTest):
    """A test of the instance's study, in a rule with the trigger `study_stable`."""

    study: Literal["modalities", "series_count", "instance_count", "patient_count"]


class SeriesTest(ValueTest):
    """A test of the instance's series, in a rule with the trigger `series` or `study_stable`."""

    series: Literal["instance_count"]


class OriginTest(ValueTest):
    """A test of the functions that the instance came out of, or of the rules that called them; none if received."""

    origin: Literal["function", "rule"]


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
    """Holds for every instance: written as an empty `when`."""


_KINDS = ("all", "any", "not", "attribute", "association", "study", "series", "origin")


def _kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    return next((kind for kind in _KINDS if kind in keys or f"{kind}_" in keys), "always")


Condition = Annotated[
    Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[Not, Tag("not")]
    | Annotated[AttributeTest, Tag("attribute")]
    | Annotated[AssociationTest, Tag("association")]
    | Annotated[StudyTest, Tag("study")]
    | Annotated[SeriesTest, Tag("series")]
    | Annotated[OriginTest, Tag("origin")]
    | Annotated[Always, Tag("always")],
    Discriminator(_kind),
]


def parts_of(condition: Condition) -> tuple[Condition, ...]:
    """Return the conditions directly inside a condition."""
    if isinstance(condition, AllOf):
        return condition.all
    if isinstance(condition, AnyOf):
        return condition.any
    return (condition.not_,) if isinstance(condition, Not) else ()


def depth(condition: Condition) -> int:
    """Return how deep a condition is nested."""
    return 1 + max(map(depth, parts_of(condition)), default=0)
