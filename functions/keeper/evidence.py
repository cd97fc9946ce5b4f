"""Until when everything that was received is known to be in the index: what the broker and the edge say."""

from datetime import datetime
from typing import Any

import httpx
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from bucky.cloudevents import utc_now
from bucky.events import InstanceStored
from keeper.completeness import Seen
from keeper.waiting import oldest_waiting

EDGE_SECONDS = 3.0


class Evidence:
    """Asks both; while one does not answer, nothing new is known. An empty URL means that there is no edge here."""

    def __init__(self, js: JetStreamContext, http: httpx.AsyncClient, edge_url: str) -> None:
        self._js, self._http, self._edge_url = js, http, edge_url
        self._uploaded_until = self._indexed_until = utc_now()

    async def seen(self) -> Seen:
        """Return how far the index is, and why no further."""
        now = utc_now()
        # The edge first: what it has handed over by then, the stream has.
        at_the_edge = await self._edge(now)
        in_the_stream = await self._stream(now)
        until = min(self._uploaded_until, self._indexed_until)
        return Seen(now, until, "; ".join(filter(None, (at_the_edge, in_the_stream))))

    async def _edge(self, now: datetime) -> str:
        if not self._edge_url:
            self._uploaded_until = now
            return ""
        try:
            answer = await self._http.get(self._edge_url, timeout=EDGE_SECONDS)
            page: dict[str, Any] = answer.json()
            waiting = int((page.get("uploads") or {})["waiting"])
            well = bool(page["store"]["ok"] and page["broker"]["ok"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return "the edge does not say what it still has"
        if waiting or not well:
            return f"the edge has {waiting} instances still to upload" if waiting else "the edge cannot upload"
        self._uploaded_until = now
        return ""

    async def _stream(self, now: datetime) -> str:
        try:
            oldest = await oldest_waiting(self._js, "INSTANCES", InstanceStored.TYPE, "parse-instance")
        except (NatsError, OSError, TimeoutError):
            return "the broker does not say what waits to be indexed"
        self._indexed_until = max(self._indexed_until, min(oldest, now) if oldest else now)
        return "" if oldest is None else "instances wait to be indexed"
