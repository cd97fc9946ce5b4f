"""One durable pull consumer: fetches with linger, keeps what is in hand alive, hands batches on."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from bucky.cloudevents import URGENT
from bucky.errors import BrokerUnavailable, BuckyError
from bucky.log import get_logger
from jetstream_connector.annotations import Subscription
from jetstream_connector.dispatch import Dispatcher
from jetstream_connector.message import Message
from jetstream_connector.metrics import Metrics
from jetstream_connector.priority_scheduler import PriorityScheduler
from jetstream_connector.pull import Pull
from jetstream_connector.subjects import durable_name
from jetstream_connector.topology import stream_of

LONG_FETCH_SECONDS = 2.0
# While a call is in flight, the next batch gathers, and looks now and then whether the call has ended.
GATHER_SECONDS = 0.2
LOOK_SECONDS = 0.02
RETRY_SECONDS = 0.5
# Messages sent back with a delay still count as delivered, and past this many nothing behind them comes.
LEAST_ACK_PENDING = 50_000


@dataclass(frozen=True)
class Place:
    """Where a consumer's batches get their turn, and what counts them."""

    scheduler: PriorityScheduler
    group: str
    urgent: bool
    metrics: Metrics


class Consumer:
    """Pulls one subject for one function until it is stopped; survives restarts of the broker."""

    def __init__(
        self,
        client: Client,
        js: JetStreamContext,
        function: str,
        subject: str,
        subscription: Subscription,
        dispatcher: Dispatcher,
        place: Place,
    ) -> None:
        self.function, self.subject = function, subject
        self.urgent = place.urgent
        self.durable = durable_name(function, subject)
        self.pending: int | None = None
        self.ack_pending: int | None = None
        self.last_error: str | None = None
        self.still_since: float | None = None
        self._floor = -1
        self._client, self._js = client, js
        self._subscription = subscription
        self.dispatcher = dispatcher
        self._place = place
        self._log = get_logger("connector").bind(function=function, consumer=self.durable)
        self._stopping = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._in_hand: dict[int, Msg] = {}
        self._stream = ""
        self._pull: Pull | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to pull, in the background."""
        self._stopped = asyncio.create_task(self._stopping.wait())
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._keep_alive())]

    async def stop(self, seconds: float) -> None:
        """Stop fetching, finish what is in flight for at most `seconds`, and hand the rest back."""
        self._stopping.set()
        self.dispatcher.stopping = True
        run, keep_alive = self._tasks
        await run
        if self._pull is not None:
            self._in_hand |= {id(raw): raw for raw in await self._pull.end()}
        if self._work:
            await asyncio.wait(self._work, timeout=seconds)
        for task in self._work:
            task.cancel()
        keep_alive.cancel()
        await asyncio.gather(keep_alive, *self._work, return_exceptions=True)
        await self._hand_back(list(self._in_hand.values()))
        await self._abandon()

    async def inspect(self) -> None:
        """Read what waits at the broker; make the consumer anew when it is gone."""
        if self._pull is None or not self._client.is_connected:
            self.pending = self.ack_pending = None
            return
        try:
            info = await self._js.consumer_info(self._stream, self.durable)
        except NotFoundError:
            # The next step of `_run` makes it; its fetch may be waiting at a consumer that is gone.
            await self._abandon()
        except (NatsError, OSError) as error:
            self._failed(error)
        else:
            self.pending, self.ack_pending = info.num_pending, info.num_ack_pending
            self._notice_movement(info.ack_floor.stream_seq if info.ack_floor else 0)

    def _notice_movement(self, floor: int) -> None:
        """Keep since when (monotonic) the oldest event that waits has been the same one."""
        if not self.pending and not self.ack_pending:
            self.still_since = None
        elif self.still_since is None or floor != self._floor:
            self.still_since = time.monotonic()
        self._floor = floor

    async def _run(self) -> None:
        """Fetch and hand on: the failure policy of a consumer is to say what is wrong and try again."""
        while not self._stopping.is_set():
            try:
                await self._step()
            except (NatsError, BuckyError, OSError) as error:
                await self._recover(error)
            except Exception as error:  # noqa: BLE001 - a bug in one consumer must not end it in silence
                self._log.exception("connector.unexpected")
                await self._recover(error)

    async def _recover(self, error: Exception) -> None:
        self._failed(error)
        await self._abandon()
        await self._pause(RETRY_SECONDS)

    async def _step(self) -> None:
        if not self._client.is_connected:
            self._failed(BrokerUnavailable("NATS is not connected"))
            await self._pause(RETRY_SECONDS)
            return
        if self._pull is None:
            await self._ensure()
        wait = self.dispatcher.wait()
        if wait > 0:
            await self._pause(wait)
            return
        # An urgent batch waits ready for the end of the call before it, or a routine one would slip in.
        if len(self._work) >= self.dispatcher.concurrency + self.urgent:
            await self._pause_for_work()
            return
        fetched = await self._fetch(self.dispatcher.batch_size())
        self.last_error = None
        for raw in fetched:
            self._in_hand[id(raw)] = raw
        if fetched and not self._stopping.is_set():
            task = asyncio.create_task(self._process(fetched))
            self._work.add(task)
            task.add_done_callback(self._finished)

    async def _process(self, fetched: Sequence[Msg]) -> None:
        try:
            came = time.monotonic()
            async with self._place.scheduler.turn(self._place.group, urgent=self.urgent):
                self._measure(time.monotonic() - came)
                await self.dispatcher.dispatch([Message.read(raw) for raw in fetched])
        finally:
            for raw in fetched:
                if raw.is_acked or not self._stopping.is_set():
                    self._in_hand.pop(id(raw), None)

    def _measure(self, waited: float) -> None:
        priority = URGENT if self.urgent else "routine"
        self._place.metrics.turns.labels(self.function, priority).inc()
        self._place.metrics.turn_wait.labels(self.function, priority).observe(waited)

    async def _fetch(self, size: int) -> list[Msg]:
        """Wait for a first message, then linger for a full batch; return none when there is none.

        It gathers on while a call is in flight: a second call with a part of a batch takes from the first what
        that would leave over for it, and small batches cost nearly as much as large ones.
        """
        pull = self._pull
        fetched = await self._first(pull) if pull is not None else []
        wait = linger = min(self._subscription.linger, LONG_FETCH_SECONDS)
        gathers_until = time.monotonic() + GATHER_SECONDS
        while pull is not None and 0 < len(fetched) < size and not self._stopping.is_set():
            try:
                fetched += await pull.more(size - len(fetched), wait)
            except NatsError:
                # What was fetched counts; if the broker is away, the next fetch will say so.
                break
            if not self._work or linger <= 0 or time.monotonic() >= gathers_until:
                break
            wait = max(linger, LOOK_SECONDS)
        return fetched

    async def _first(self, pull: Pull) -> list[Msg]:
        """Wait for one message; when stopped meanwhile, return none and leave what comes to the end of the pull."""
        fetch = asyncio.create_task(pull.first(LONG_FETCH_SECONDS))
        await asyncio.wait({fetch, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
        if fetch.done():
            return fetch.result()
        fetch.cancel()
        await asyncio.wait({fetch})
        return []

    async def _ensure(self) -> None:
        """Make the durable consumer, or bring it up to date, and subscribe to it."""
        subscription = self._subscription
        stream = await stream_of(self._client, self.subject)
        in_flight = subscription.batch_size * subscription.concurrency
        await self._js.add_consumer(
            stream,
            ConsumerConfig(
                name=self.durable,
                durable_name=self.durable,
                description=f"{self.function} on {self.subject}",
                filter_subject=self.subject,
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=subscription.ack_wait,
                max_deliver=-1,
                max_ack_pending=max(LEAST_ACK_PENDING, 4 * in_flight),
            ),
        )
        self._stream = stream
        self._pull = await Pull.open(self._client, stream, self.durable)
        self._log.info("connector.consumer_ready", stream=stream, subject=self.subject)

    async def _abandon(self) -> None:
        """Leave a subscription that failed; what it had received comes again."""
        pull, self._pull = self._pull, None
        if pull is not None and not self._client.is_closed:
            await pull.close()

    async def _keep_alive(self) -> None:
        """Tell the broker, three times per ack wait, that what is in hand is being worked on."""
        while True:
            await asyncio.sleep(self._subscription.ack_wait / 3)
            if not self._client.is_connected:
                continue
            try:
                for raw in list(self._in_hand.values()):
                    if not raw.is_acked:
                        await raw.in_progress()
                        self._place.metrics.heartbeats.labels(self.function).inc()
            except NatsError as error:
                self._failed(error)

    async def _hand_back(self, messages: Sequence[Msg]) -> None:
        for raw in messages:
            if not raw.is_acked and self._client.is_connected:
                await raw.nak()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until the stop."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _pause_for_work(self) -> None:
        """Wait until a call in flight has ended, but not longer than until the stop."""
        await asyncio.wait({*self._work, self._stopped}, return_when=asyncio.FIRST_COMPLETED)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A bug of ours: its messages were not settled and come again after their ack wait.
            self._log.error("connector.unexpected", exc_info=error)
            self.last_error = f"unexpected {type(error).__name__}"

    def _failed(self, error: Exception) -> None:
        said = str(error) if isinstance(error, BuckyError) else f"the broker: {error or type(error).__name__}"
        if said != self.last_error:
            self._log.warning("connector.broker", error=said)
        self.last_error = said
