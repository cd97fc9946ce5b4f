"""A rule: when it is looked at, what it asks, where it sends, what it changes on the way, which function it calls."""

import hashlib
import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bucky.cloudevents import Priority
from bucky.routing.changes import Action
from bucky.routing.conditions import Always, Condition, SeriesTest, StudyTest, depth, parts_of
from bucky.routing.schedule import Schedule
from bucky.text.names import NAME_PATTERN

MAX_DEPTH = 16
Trigger = Literal["instance", "series", "study_stable"]
TRIGGERS: tuple[Trigger, ...] = ("instance", "series", "study_stable")


class Process(BaseModel):
    """An OpenFaaS function that is called with what the rule matched; what it answers comes back in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    function: str = Field(pattern=NAME_PATTERN, description="Its name, as `faas-cli list` shows it.")
    parameters: dict[str, str | int | float | bool] = Field(
        {}, max_length=50, description="Given to the function as they are; other parameters make it another processing."
    )
    timeout_seconds: float = Field(600.0, gt=0, le=3000, description="Longest a call may take, results included.")
    max_result_bytes: int = Field(4 * 1024**3, gt=0, description="Most that the function may answer to one call.")

    def parameters_sha256(self) -> str | None:
        """Return a digest of the parameters, None when there are none."""
        said = json.dumps(self.parameters, sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest() if self.parameters else None


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
    destinations: tuple[str, ...] = Field((), description="Names of destinations.")
    process: Process | None = Field(
        None,
        description="A function to call with each instance, or with all of a series or study at once when the rule "
        "waits for that; its results come in as new instances.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.quiet_seconds is not None and self.trigger == "instance":
            raise ValueError("quiet_seconds goes with trigger: series or study_stable")
        if self.process is not None and self.morph:
            raise ValueError("a function gets what was received, so morph cannot go with process: write two rules")
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
