"""Times of the week in a time zone: when a rule is active, or a destination takes deliveries.

    time_zone: Europe/Brussels
    windows:
      - {days: [mon, tue, wed, thu, fri], from: "19:00", to: "06:30"}
      - {days: [sat, sun]}

Days are those on which a window begins. Times are those of the clock on the wall: on the two days a year
that have 23 or 25 hours, they follow it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
_END_OF_DAY = "24:00"
_WEEK = timedelta(days=7)


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
    to: Clock = _END_OF_DAY

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.from_ in (self.to, _END_OF_DAY):
            raise ValueError("a window that begins when it ends is empty; leave both out for the whole day")
        return self

    def on(self, day: date, zone: ZoneInfo) -> tuple[datetime, datetime] | None:
        """Return when the window of this day begins and ends, in UTC, or None when there is none."""
        if DAYS[day.weekday()] not in self.days:
            return None
        next_day = self.to == _END_OF_DAY or self.to < self.from_
        begins = _moment(day, self.from_, zone)
        ends = _moment(day + timedelta(days=next_day), "00:00" if self.to == _END_OF_DAY else self.to, zone)
        # At the change to summer time a window can lie in the hour that there is not.
        return (begins, ends) if begins < ends else None


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether a time is in one of the windows, and until when that stays so; None for ever."""

    is_open: bool
    until: datetime | None


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
        return any(begins <= at < ends for begins, ends in self._spans(at, range(-1, 1)))

    def opening(self, at: datetime) -> Opening:
        """Return whether a time, which has a zone, is in one of the windows, and until when that stays so."""
        spans = sorted(self._spans(at, range(-1, 9)))
        end = at
        for begins, ends in spans:
            if begins <= end < ends:
                end = ends
        if end >= at + _WEEK:
            return Opening(is_open=True, until=None)  # the windows leave no gap
        until = end if end > at else next(begins for begins, _ in spans if begins > at)
        return Opening(is_open=end > at, until=until.astimezone(ZoneInfo(self.time_zone)))

    def _spans(self, at: datetime, days: Iterable[int]) -> Iterator[tuple[datetime, datetime]]:
        zone = ZoneInfo(self.time_zone)
        today = at.astimezone(zone).date()
        for offset in days:
            for window in self.windows:
                span = window.on(today + timedelta(days=offset), zone)
                if span is not None:
                    yield span


def _moment(day: date, clock: str, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time.fromisoformat(clock), zone).astimezone(UTC)
