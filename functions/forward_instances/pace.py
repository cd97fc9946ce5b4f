"""One batch's way to one destination: what may go now, how fast, and what was begun.

The cap is on what is read to be sent, so it holds for every type of destination. All senders to a
destination share it through the index; without the index each keeps to it by itself until that is back.
"""

import io
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import BinaryIO

from prometheus_client import Counter

from bucky.cloudevents import Priority
from bucky.dimse.outgoing import Opener
from bucky.errors import IndexUnavailable
from bucky.events import DeliveryRequested
from bucky.routing.delivery_hours import Paced

# The most that is taken at once, in seconds of the bandwidth: the shorter, the smoother.
PIECE_SECONDS = 0.5
BUFFER_BYTES = 16 * 1024

SENT_BYTES = Counter("bucky_forward_bytes_total", "Bytes of the instances begun", ["destination"])
CAP_SECONDS = Counter("bucky_forward_cap_wait_seconds_total", "Waits for bandwidth", ["destination"])
OUT_OF_HOURS = Counter("bucky_forward_out_of_hours_total", "Deliveries put off by a schedule", ["destination"])

Take = Callable[[str, int, int], float]
"""Gives out bandwidth: a destination's name, bytes, bytes per second; returns the seconds to wait."""


class DeliveryPace:
    """What a destination's schedule and cap mean for one batch; `take` gives out its bandwidth."""

    def __init__(self, name: str, settings: Paced, now: datetime, take: Take) -> None:
        self._name, self._settings, self._now, self._take = name, settings, now, take
        self._meter: Meter | None = None
        self.begun: set[str] = set()

    def closed(self, priority: Priority) -> tuple[str, float] | None:
        """Return why a delivery must wait and for how many seconds, or None when it may go."""
        opening = self._settings.opening(self._now, priority)
        if opening.is_open or opening.until is None:
            return None
        OUT_OF_HOURS.labels(self._name).inc()
        zone = opening.until.tzinfo
        reason = f"outside the hours of {self._name}: it takes deliveries from {opening.until:%Y-%m-%d %H:%M} ({zone})"
        return reason, opening.until.timestamp() - self._now.timestamp()

    def seconds(self, most: float, priorities: Sequence[Priority]) -> float:
        """Return for how long instances may be begun: `most`, or until the first of these is closed out."""
        ends = [self._settings.opening(self._now, priority).until for priority in priorities]
        return min([most, *(end.timestamp() - self._now.timestamp() for end in ends if end is not None)])

    def expect(self, size: int) -> None:
        """Get ready to send about this number of bytes."""
        rate = self._settings.max_bytes_per_second
        self._meter = Meter(self._name, rate, size, self._take) if rate is not None else None

    def through(self, delivery: DeliveryRequested, fetch: Opener) -> Opener:
        """Return what opens a delivery's data, as `fetch` does: it notes the beginning, and reads within the cap."""

        def opened() -> BinaryIO:
            self.begun.add(delivery.delivery_id)
            SENT_BYTES.labels(self._name).inc(delivery.instance.size)
            content = fetch()
            return (
                content if self._meter is None else io.BufferedReader(CappedReader(content, self._meter), BUFFER_BYTES)
            )

        return opened


class Meter:
    """Lets bytes through at a rate; `size` is how many there will be at most. For any number of threads."""

    def __init__(
        self, name: str, bytes_per_second: int, size: int, take: Take, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._name, self._rate, self._take, self._sleep = name, bytes_per_second, take, sleep
        self._ahead = size
        self._held = 0
        self._lock = threading.Lock()

    def pass_through(self, count: int) -> None:
        """Return when this number of bytes may be sent."""
        with self._lock:
            while self._held < count:
                piece = max(count - self._held, min(int(self._rate * PIECE_SECONDS), self._ahead))
                wait = self._wait_for(piece)
                if wait > 0:
                    CAP_SECONDS.labels(self._name).inc(wait)
                    self._sleep(wait)
                self._held += piece
                self._ahead = max(0, self._ahead - piece)
            self._held -= count

    def _wait_for(self, piece: int) -> float:
        try:
            return self._take(self._name, piece, self._rate)
        except IndexUnavailable:
            return piece / self._rate


class CappedReader(io.RawIOBase):
    """A stream that is read no faster than its meter says; closing it closes what is below."""

    def __init__(self, content: BinaryIO, meter: Meter) -> None:
        self._content, self._meter = content, meter

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the stream below can be sought in."""
        return self._content.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; what is read again is counted again, as it is sent again."""
        return self._content.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._content.tell()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read once the meter lets it."""
        found = self._content.read(len(buffer))
        self._meter.pass_through(len(found))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Close both."""
        self._content.close()
        super().close()
