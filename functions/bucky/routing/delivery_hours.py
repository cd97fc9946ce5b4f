"""When and how fast a destination takes deliveries: hours, and a cap on bandwidth.

schedule:
  time_zone: Europe/Brussels
  windows: [{days: [mon, tue, wed, thu, fri], from: "19:00", to: "06:30"}, {days: [sat, sun]}]
  urgent: any-time
max_bytes_per_second: 2500000
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from bucky.cloudevents import URGENT, Priority
from bucky.routing.schedule import Opening, Schedule

LEAST_BYTES_PER_SECOND = 1024
_ALWAYS = Opening(is_open=True, until=None)


class DeliveryHours(Schedule):
    """A schedule that urgent deliveries need not keep to, unless they must wait as well."""

    urgent: Literal["any-time", "waits"] = "any-time"


class Paced(BaseModel):
    """The part of a destination that says when, and how fast: every type of destination has it."""

    schedule: DeliveryHours | None = None
    max_bytes_per_second: int | None = Field(default=None, ge=LEAST_BYTES_PER_SECOND)

    def opening(self, at: datetime, priority: Priority = "routine") -> Opening:
        """Return whether a delivery may go out at a time, and until when that stays so."""
        if self.schedule is None or (priority == URGENT and self.schedule.urgent == "any-time"):
            return _ALWAYS
        return self.schedule.opening(at)
