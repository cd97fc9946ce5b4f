"""A rule: when it is looked at, what it asks, where it sends, and what it changes on the way."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bucky.events import Priority
from bucky.morph.actions import Action
from bucky.names import NAME_PATTERN
from bucky.rules.conditions import Always, Condition, SeriesTest, StudyTest, depth, parts_of
from bucky.schedule import Schedule

MAX_DEPTH = 16
Trigger = Literal["instance", "series", "study_stable"]
TRIGGERS: tuple[Trigger, ...] = ("instance", "series", "study_stable")


class Rule(BaseModel):
    """Where instances go, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    name: str = Field(pattern=NAME_PATTERN)
    enabled: bool = True
    trigger: Trigger = Field(
        "instance",
        description="When it is looked at: for each instance as it arrives, or for each instance of a series or "
        "study once that has been quiet.",
    )
    quiet_seconds: float | None = Field(
        None,
        ge=1,
        le=7 * 86400,
        description="How long nothing must have come for a series or study to be stable for this rule; without it, "
        "`BUCKY_STUDY_QUIET_SECONDS`.",
    )
    active: Schedule | None = Field(None, description="It holds for what is received at these times only.")
    when: Condition = Always()
    priority: Priority = Field("routine", description="`urgent` deliveries go before `routine` ones.")
    morph: tuple[Action, ...] = Field(
        (), max_length=100, description="Changes to what is sent, in this order; what is kept never changes."
    )
    original_attributes: Literal["record", "omit"] = Field(
        "record",
        description="Whether what `morph` replaced or removed is kept in the Original Attributes Sequence "
        "(PS3.3 §C.12.1.1.9) of what is sent.",
    )
    destinations: tuple[str, ...] = Field(description="Names of destinations.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.quiet_seconds is not None and self.trigger == "instance":
            raise ValueError("quiet_seconds goes with trigger: series or study_stable")
        if depth(self.when) > MAX_DEPTH:
            raise ValueError(f"conditions may be nested {MAX_DEPTH} deep")
        for kind, triggers in ((StudyTest, {"study_stable"}), (SeriesTest, {"series", "study_stable"})):
            if self.trigger not in triggers and _has(self.when, kind):
                what = kind.__name__.removesuffix("Test").lower()
                raise ValueError(
                    f"it tests the {what}, which is not complete yet with trigger {self.trigger!r}; "
                    f"write trigger: {' or '.join(sorted(triggers))}"
                )
        return self


def _has(condition: Condition, kind: type) -> bool:
    return isinstance(condition, kind) or any(_has(part, kind) for part in parts_of(condition))
