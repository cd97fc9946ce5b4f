"""Every error Bucky raises on purpose, and what it means for the work in hand.

    BuckyError
    ├── SettingsError       the process cannot start; its message names the setting
    ├── Permanent           trying again cannot help: refuse it, or make it a dead letter
    │   ├── InvalidInstance what was received is not an instance we can keep
    │   ├── NotFound        what was asked for does not exist
    │   └── Conflict        somebody else changed it first
    └── Retriable           trying again can help: nak it, or answer 503
        ├── StoreUnavailable
        ├── BrokerUnavailable
        ├── IndexUnavailable
        └── DestinationUnavailable
            └── AnswerLost  it may have the instance: it was sent whole, and no answer came

Messages are sentences for people: what happened, what it means for the data, what to do next.
They never contain patient values.
"""


class BuckyError(Exception):
    """Something Bucky foresaw."""


class SettingsError(BuckyError):
    """A setting is missing or wrong."""


class Permanent(BuckyError):
    """Trying again cannot help."""


class InvalidInstance(Permanent):
    """The bytes received are not an instance Bucky can keep."""


class NotFound(Permanent):
    """What was asked for does not exist."""


class Conflict(Permanent):
    """Somebody else changed it first: read it again, then decide."""


class Retriable(BuckyError):
    """Trying again can help; `retry_after` is the wait in seconds, or None for the caller's own backoff."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreUnavailable(Retriable):
    """The object store did not answer, or answered that it cannot now."""


class BrokerUnavailable(Retriable):
    """NATS JetStream did not acknowledge."""


class IndexUnavailable(Retriable):
    """The index database did not answer."""


class DestinationUnavailable(Retriable):
    """A destination refused the connection or stopped answering."""


class AnswerLost(DestinationUnavailable):
    """A destination was sent an instance whole, and its answer did not come: it may have it."""
