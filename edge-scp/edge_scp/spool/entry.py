"""What the spool calls one acknowledged instance."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One acknowledged record; `size` is in bytes; `verified` is false for one found on the disk."""

    name: str
    size: int
    verified: bool

    @property
    def received_ns(self) -> int:
        """Return when it was received, in nanoseconds since 1970; 0 when the name does not say."""
        when = self.name.partition("-")[0]
        return int(when) if when.isdecimal() else 0
