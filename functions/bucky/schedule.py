"""Times of the week in a time zone: when a rule is active, or a destination takes deliveries."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _clock(value: Any) -> Any:
    """Take what YAML 1.1 makes of an unquoted 18:30, which is minutes."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 24 * 60:
        return f"{value // 60:02d}:{value % 60:02d}"
    return value


Clock = Annotated[str, BeforeValidator(_clock), Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$")]
"""A time of the day as `HH:MM`; `24:00` is its end."""


class Window(BaseModel):
    """From a time on each of the days to another; one that ends before it begins ends on the next day."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)
    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    from_: Clock = Field(default="00:00", alias="from")
    to: Clock = "24:00"

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.from_ == self.to:
            raise ValueError("a window that begins when it ends is empty; leave both out for the whole day")
        return self

    def holds(self, local: datetime) -> bool:
        """Return whether a local time is in the window."""
        clock, today = local.strftime("%H:%M"), DAYS[local.weekday()]
        if self.from_ < self.to:
            return today in self.days and self.from_ <= clock < self.to
        yesterday = DAYS[(local.weekday() - 1) % 7]
        return (today in self.days and clock >= self.from_) or (yesterday in self.days and clock < self.to)


class Schedule(BaseModel):
    """One or more windows, in an IANA time zone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    time_zone: str = "UTC"
    windows: tuple[Window, ...] = Field(min_length=1, max_length=50)

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is not an IANA time zone such as Europe/Berlin") from None
        return name

    def is_open(self, at: datetime) -> bool:
        """Return whether a time, which has a zone, is in one of the windows."""
        local = at.astimezone(ZoneInfo(self.time_zone))
        return any(window.holds(local) for window in self.windows)
