"""What the connector says of itself: the broker, the gateway, functions that are down, queues that do not move."""

import time
from collections.abc import Iterable
from typing import Any

from bucky.runtime.circuit_breaker import CircuitState
from bucky.runtime.trouble import Troubles
from jetstream_connector.consumer import Consumer
from jetstream_connector.dispatch import FunctionHealth

_WAITS = "Events wait in their streams; nothing is lost."


class Wellbeing:
    """Keeps since when each part is not well; a queue that has not moved for `normal_seconds` is stalled."""

    def __init__(self, normal_seconds: float) -> None:
        self._normal_seconds = normal_seconds
        self._troubles = Troubles()

    def look(
        self,
        broker: str | None,
        gateway: str | None,
        functions: Iterable[tuple[str, FunctionHealth, Iterable[Consumer]]],
    ) -> None:
        """Look at everything; `broker` and `gateway` are what is wrong with them, if anything is."""
        self._note("broker", broker, _WAITS, "bucky status", down=True)
        self._note("gateway", gateway, _WAITS + " Functions that are known go on.", "bucky status", down=True)
        seen = {"broker", "gateway"}
        now = time.monotonic()
        for name, health, consumers in functions:
            down = health.breaker.state(now) is not CircuitState.CLOSED
            self._note(name, health.last_error or "it does not answer" if down else None, _WAITS, "bucky queues")
            seen.add(name)
            for consumer in consumers:
                queue = f"{name} on {consumer.subject}"
                self._note(queue, self._stalled(consumer, now), _WAITS, "bucky queues")
                seen.add(queue)
        self._troubles.keep(seen)

    def listed(self) -> list[dict[str, Any]]:
        """Return what is wrong."""
        return self._troubles.listed()

    def _stalled(self, consumer: Consumer, now: float) -> str | None:
        still_since, pause = consumer.still_since, consumer.dispatcher.pause
        if still_since is None or now - still_since < self._normal_seconds or pause.by_schedule:
            return None
        waiting = (consumer.pending or 0) + (consumer.ack_pending or 0)
        why = pause.reason or consumer.last_error or "nothing says why"
        return f"its oldest event has waited for {now - still_since:.0f} s, {waiting} in all: {why}"

    def _note(self, part: str, reason: str | None, effect: str, command: str, *, down: bool = False) -> None:
        if reason is None:
            self._troubles.clear(part)
        else:
            self._troubles.note(part, reason, effect, command, "down" if down else "degraded")
