"""The JetStream topology as data; `ensure_streams` makes the broker match it.

Consumers are not listed here: each function declares its own in `openfaas/stack.yaml`, and the
connector makes them.
"""

from collections.abc import Iterable
from dataclasses import replace

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

DAY = 24 * 3600.0
DUPLICATE_WINDOW = 600.0

STREAMS: tuple[StreamConfig, ...] = (
    StreamConfig(
        name="INSTANCES",
        description="What was stored and indexed",
        subjects=["dicom.instance.>", "dicom.series.>", "dicom.study.>"],
        max_age=14 * DAY,
        duplicate_window=DUPLICATE_WINDOW,
        allow_atomic=True,
    ),
    StreamConfig(
        name="DELIVERIES",
        description="What is to be delivered, processed and committed to, and what was",
        subjects=["dicom.delivery.>", "dicom.processing.>", "dicom.commitment.>"],
        max_age=14 * DAY,
        duplicate_window=DUPLICATE_WINDOW,
        allow_atomic=True,
    ),
    StreamConfig(
        name="DEADLETTERS",
        description="Events a function could not process, with the reason",
        subjects=["deadletter.>"],
        max_age=90 * DAY,
        duplicate_window=DUPLICATE_WINDOW,
        allow_atomic=True,
        # The admin API reads hundreds at once.
        allow_direct=True,
    ),
    StreamConfig(
        name="ADVISORIES",
        description="JetStream's own word on messages that ran out of deliveries",
        subjects=["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"],
        max_age=14 * DAY,
    ),
)


async def ensure_streams(js: JetStreamContext, replicas: int = 1, streams: Iterable[StreamConfig] = STREAMS) -> None:
    """Create or update every stream; running it again changes nothing."""
    for stream in streams:
        wanted = replace(
            stream,
            num_replicas=replicas,
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
        )
        try:
            await js.stream_info(str(stream.name))
        except NotFoundError:
            await js.add_stream(wanted)
        else:
            await js.update_stream(wanted)
