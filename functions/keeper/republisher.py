"""Publishing an event once more, though the broker has seen its id."""

import time

from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from bucky.broker.connection import PUBLISH_TIMEOUT_SECONDS
from bucky.broker.streams import DUPLICATE_WINDOW
from bucky.cloudevents import CloudEvent
from bucky.errors import BrokerUnavailable

SOURCE = "/bucky/keeper"


class Republisher:
    """Publishes events again; twice within the streams' duplicate window is once."""

    def __init__(self, js: JetStreamContext) -> None:
        self.js = js

    async def publish(self, event: CloudEvent) -> None:
        """Return once the stream has the event; raise `BrokerUnavailable` otherwise."""
        again = f"{event.nats_msg_id}/reconciled-{int(time.time() // DUPLICATE_WINDOW)}"
        try:
            await self.js.publish(
                event.nats_subject, event.to_json(), timeout=PUBLISH_TIMEOUT_SECONDS, headers={"Nats-Msg-Id": again}
            )
        except (NatsError, OSError) as error:
            raise BrokerUnavailable(f"JetStream did not acknowledge: {type(error).__name__}") from error
