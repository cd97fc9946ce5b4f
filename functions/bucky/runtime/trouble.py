"""What a process says of itself when it is not well: which part, since when, what it means, and what to do."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from bucky.cloudevents import utc_now

State = Literal["up", "degraded", "down"]
WORST: tuple[State, ...] = ("up", "degraded", "down")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One part that is not well; `effect` is what it means for the data, `command` what to run."""

    part: str
    state: State
    since: datetime
    reason: str
    effect: str
    command: str

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "since": self.since.isoformat(timespec="seconds")}


class Troubles:
    """The troubles a process has now; one that goes on keeps its beginning."""

    def __init__(self) -> None:
        self._by_part: dict[str, Trouble] = {}

    def note(self, part: str, reason: str, effect: str, command: str, state: State = "degraded") -> None:
        """Note that a part is not well."""
        known = self._by_part.get(part)
        since = known.since if known is not None else utc_now()
        self._by_part[part] = Trouble(part, state, since, reason, effect, command)

    def clear(self, part: str) -> None:
        """Note that a part is well."""
        self._by_part.pop(part, None)

    def keep(self, parts: set[str]) -> None:
        """Forget the parts that are not among these."""
        for gone in self._by_part.keys() - parts:
            del self._by_part[gone]

    def listed(self) -> list[dict[str, Any]]:
        """Return them, the longest first."""
        return [one.as_data() for one in sorted(self._by_part.values(), key=lambda one: (one.since, one.part))]


def worst(*states: State) -> State:
    """Return the worst of some states; none is up."""
    return max(states, key=WORST.index, default="up")
