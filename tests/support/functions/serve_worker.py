"""A handler that the tests serve in a process of its own: slow, and certain of what it did."""

import time

from prometheus_client import Counter

from bucky.cloudevents import CloudEvent
from bucky.errors import Permanent
from bucky.serve.handlers import Context
from bucky.settings import Settings

WORKED = Counter("worker_events_total", "Events worked on")


def handle(event: CloudEvent, ctx: Context, settings: Settings) -> list[CloudEvent]:
    """Take as long as the event says (seconds) and return one result."""
    wish = event.data or {}
    if wish.get("refuse"):
        raise Permanent("it was told to refuse")
    time.sleep(wish.get("seconds", 0.005))
    WORKED.inc()
    ctx.log.debug("worker.done", bucket=settings.store_bucket)
    return [CloudEvent(id=event.id, source="/worker", type="result.made")]
