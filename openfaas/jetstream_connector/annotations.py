"""What a function's annotations ask for: which subjects, in which batches, how often to try.

| Annotation | Default | Meaning |
|---|---|---|
| `topic` | — | NATS subjects, comma separated; wildcards allowed. Without it the function gets nothing. |
| `jetstream.batch-size` | 50 | most events in one call |
| `jetstream.linger-ms` | 20 | wait for more events after the first, in milliseconds |
| `jetstream.concurrency` | 1 | calls in flight at once, per topic; per subject with `jetstream.partition` |
| `jetstream.max-in-flight` | — | calls in flight at once, in all; a subject without one may have one more |
| `jetstream.max-attempts` | 5 | failed attempts after which an event is a dead letter |
| `jetstream.backoff` | 1s,5s,30s,2m | waits before each new attempt; the last repeats |
| `jetstream.ack-wait` | 15s | time after which a silent connector's events go to another |
| `jetstream.timeout` | 2m | longest a call may take |
| `jetstream.partition` | — | `subject`: one consumer for each subject that matches, so one never delays another |
| `jetstream.priority` | — | `urgent`: events on `TOPIC.urgent` are taken too, and before the others |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bucky.cloudevents import URGENT
from jetstream_connector.subjects import is_filter

PREFIX = "jetstream."
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_KNOWN = (
    "batch-size",
    "linger-ms",
    "concurrency",
    "max-attempts",
    "backoff",
    "ack-wait",
    "timeout",
    "partition",
    "max-in-flight",
    "priority",
)
_NO_LIMIT = 1_000_000


class AnnotationError(ValueError):
    """An annotation cannot be understood; the message names it and says what is allowed."""


@dataclass(frozen=True)
class Subscription:
    """What one function subscribes to; times are in seconds."""

    topics: tuple[str, ...]
    batch_size: int = 50
    linger: float = 0.02
    concurrency: int = 1
    max_attempts: int = 5
    backoff: tuple[float, ...] = (1.0, 5.0, 30.0, 120.0)
    ack_wait: float = 15.0
    timeout: float = 120.0
    partitioned: bool = False
    max_in_flight: int | None = None
    urgent_topics: tuple[str, ...] = ()

    def all_topics(self) -> list[tuple[str, bool]]:
        """Return each topic, and whether it is an urgent one."""
        return [(topic, False) for topic in self.topics] + [(topic, True) for topic in self.urgent_topics]


def parse(annotations: Mapping[str, str]) -> Subscription | None:
    """Return the subscription, or None without a `topic`; raise `AnnotationError`."""
    if "topic" not in annotations:
        return None
    for name in annotations:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _KNOWN:
            known = ", ".join(PREFIX + known for known in _KNOWN)
            raise AnnotationError(f"{name} is not an annotation of the connector; there are {known}")
    topics = _topics(annotations["topic"])
    most = _integer(annotations, "max-in-flight", _NO_LIMIT, 1, _NO_LIMIT)
    return Subscription(
        topics=topics,
        batch_size=_integer(annotations, "batch-size", 50, 1, 1000),
        linger=_integer(annotations, "linger-ms", 20, 0, 60_000) / 1000,
        concurrency=_integer(annotations, "concurrency", 1, 1, 100),
        max_attempts=_integer(annotations, "max-attempts", 5, 1, 1_000_000),
        backoff=_durations(annotations, "backoff", "1s,5s,30s,2m"),
        ack_wait=_duration(annotations, "ack-wait", "15s", 1.0),
        timeout=_duration(annotations, "timeout", "2m", 0.1),
        partitioned=_switch(annotations, "partition", "subject"),
        max_in_flight=None if most == _NO_LIMIT else most,
        urgent_topics=_urgent(topics) if _switch(annotations, "priority", URGENT) else (),
    )


def _topics(value: str) -> tuple[str, ...]:
    topics = tuple(dict.fromkeys(topic.strip() for topic in value.split(",") if topic.strip()))
    if not topics:
        raise AnnotationError("topic is empty; name a NATS subject, or remove it")
    for topic in topics:
        if not is_filter(topic):
            raise AnnotationError(f"topic {topic!r} is not a NATS subject; write one such as `orders.*.paid`")
    return topics


def _urgent(topics: tuple[str, ...]) -> tuple[str, ...]:
    for topic in topics:
        if topic.endswith(">"):
            raise AnnotationError(f"{PREFIX}priority cannot go with the topic {topic!r}: end it with a name or `*`")
    return tuple(f"{topic}.{URGENT}" for topic in topics)


def _switch(annotations: Mapping[str, str], name: str, on: str) -> bool:
    value = annotations.get(PREFIX + name, "")
    if value not in ("", on):
        raise AnnotationError(f"{PREFIX}{name} is {value!r}; it can only be `{on}`")
    return value == on


def _integer(annotations: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    value = annotations.get(PREFIX + name, str(default)).strip()
    if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
        raise AnnotationError(f"{PREFIX}{name} is {value!r}; it must be a whole number from {least} to {most}")
    return int(value)


def _durations(annotations: Mapping[str, str], name: str, default: str) -> tuple[float, ...]:
    parts = [part.strip() for part in annotations.get(PREFIX + name, default).split(",")]
    durations = [_seconds(part) for part in parts]
    if any(duration is None for duration in durations):
        raise AnnotationError(f"{PREFIX}{name} is not a list of durations such as `{default}`")
    return tuple(duration for duration in durations if duration is not None)


def _duration(annotations: Mapping[str, str], name: str, default: str, least: float) -> float:
    value = annotations.get(PREFIX + name, default).strip()
    seconds = _seconds(value)
    if seconds is None or seconds < least:
        raise AnnotationError(f"{PREFIX}{name} is {value!r}; it must be a duration of {least}s or more, as `{default}`")
    return seconds


def _seconds(value: str) -> float | None:
    match = _DURATION.fullmatch(value)
    return float(match[1]) * _SECONDS[match[2]] if match else None
