"""When and how fast a destination takes deliveries: opening hours and a cap on bandwidth.

    schedule:
      time_zone: Europe/Brussels
      windows:
        - {days: [mon, tue, wed, thu, fri], opens: "19:00", closes: "06:30"}
        - {days: [sat, sun], opens: "00:00", closes: "24:00"}
    max_bytes_per_second: 2500000

Days are those on which a window opens; one that closes at an hour before it opens closes the next day.
Hours are those of the clock on the wall: on the two days a year that have 23 or 25 hours, they follow it.
"""

import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from bucky.events import URGENT, Priority

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
LEAST_BYTES_PER_SECOND = 1024
_MIDNIGHT = "24:00"
_WEEK = timedelta(days=7)


def _clock(value: Any) -> Any:
    """Take what YAML 1.1 makes of an unquoted 22:00, which is 1320: minutes since midnight."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 24 * 60:
        return f"{value // 60:02}:{value % 60:02}"
    return value


Clock = Annotated[str, BeforeValidator(_clock), Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Window(_Model):
    """Hours in which deliveries go out, on the days on which it opens."""

    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    opens: Clock
    closes: Clock

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.opens == _MIDNIGHT or self.opens == self.closes:
            raise ValueError(
                'a window must open before 24:00 and not when it closes; a whole day is "00:00" to "24:00"'
            )
        return self

    def on(self, day: date, zone: zoneinfo.ZoneInfo) -> tuple[datetime, datetime] | None:
        """Return when it opens and closes if it opens on this day, else None."""
        if DAYS[day.weekday()] not in self.days:
            return None
        next_day = self.closes == _MIDNIGHT or self.closes < self.opens
        closes = "00:00" if self.closes == _MIDNIGHT else self.closes
        return _at(day, self.opens, zone), _at(day + timedelta(days=next_day), closes, zone)


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether deliveries go out, and until when that stays so; None for ever."""

    is_open: bool
    until: datetime | None


class Schedule(_Model):
    """Opening hours in an IANA time zone; urgent deliveries go at any time unless they must wait as well."""

    time_zone: str
    windows: tuple[Window, ...] = Field(min_length=1, max_length=50)
    urgent: Literal["any-time", "waits"] = "any-time"

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is not an IANA time zone, such as Europe/Brussels") from None
        return name

    def at(self, now: datetime, priority: Priority = "routine") -> Opening:
        """Return whether a delivery may go out at a moment."""
        if priority == URGENT and self.urgent == "any-time":
            return Opening(is_open=True, until=None)
        spans = sorted(self._spans(now))
        end = now
        for opens, closes in spans:
            if opens <= end < closes:
                end = closes
        if end >= now + _WEEK:
            return Opening(is_open=True, until=None)  # the windows leave no gap
        if end > now:
            return Opening(is_open=True, until=self._local(end))
        return Opening(is_open=False, until=self._local(next(opens for opens, _ in spans if opens > now)))

    def _spans(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Yield each time it is open from yesterday on, over more than a week."""
        zone = zoneinfo.ZoneInfo(self.time_zone)
        today = now.astimezone(zone).date()
        for offset in range(-1, 9):
            for window in self.windows:
                span = window.on(today + timedelta(days=offset), zone)
                # At the change to summer time a window can lie in the hour that there is not.
                if span is not None and span[0] < span[1]:
                    yield span

    def _local(self, moment: datetime) -> datetime:
        return moment.astimezone(zoneinfo.ZoneInfo(self.time_zone))


class Paced(BaseModel):
    """The part of a destination that says when, and how fast: every type of destination has it."""

    schedule: Schedule | None = None
    max_bytes_per_second: int | None = Field(default=None, ge=LEAST_BYTES_PER_SECOND)

    def opening(self, now: datetime, priority: Priority = "routine") -> Opening:
        """Return whether a delivery may go out at a moment; without a schedule, always."""
        return Opening(is_open=True, until=None) if self.schedule is None else self.schedule.at(now, priority)


def _at(day: date, clock: str, zone: zoneinfo.ZoneInfo) -> datetime:
    hour, minute = re.split(":", clock)
    return datetime.combine(day, time(int(hour), int(minute)), zone).astimezone(UTC)
