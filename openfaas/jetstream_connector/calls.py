"""Calls functions through the gateway: on kept connections, every outcome a `Reply`."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import quote, urlsplit

from bucky.cloudevents import BATCH_MEDIA_TYPE
from bucky.runtime.connection_pool import Broken, ConnectionPool, NotConnected, Silent
from jetstream_connector.outcomes import CallFault, Reply

# Shorter than servers keep an idle connection, so that none is closed under a request.
IDLE_SECONDS = 2.0
MOST_ANSWER_BYTES = 32 * 1024 * 1024


class FunctionClient(Protocol):
    """Sends a batch to a function."""

    async def call(self, function: str, events: Sequence[bytes], timeout: float) -> Reply:  # noqa: ASYNC109
        """Send events, each in structured JSON, and return what came back; never raises for the network."""


class GatewayClient:
    """Calls `POST {gateway}/function/NAME`."""

    def __init__(self, gateway_url: str) -> None:
        url = urlsplit(gateway_url)
        tls = ssl.create_default_context() if url.scheme == "https" else None
        self._path, self._host = url.path.rstrip("/"), url.netloc.rpartition("@")[2]
        # The annotations limit the calls; a limit here would let functions that hang delay others.
        self._server = ConnectionPool(
            url.hostname or "", url.port or (443 if tls else 80), idle_seconds=IDLE_SECONDS, tls=tls
        )

    async def call(self, function: str, events: Sequence[bytes], timeout: float) -> Reply:  # noqa: ASYNC109
        """Send a batch; `timeout` seconds is the longest silence while the function works."""
        body = b"[" + b",".join(events) + b"]"
        head = (
            f"POST {self._path}/function/{quote(function)} HTTP/1.1\r\nHost: {self._host}\r\nAccept: */*\r\n"
            f"Content-Type: {BATCH_MEDIA_TYPE}\r\nContent-Length: {len(body)}"
        )
        try:
            answer = await self._server.call(head.encode(), body, silence=timeout, most_bytes=MOST_ANSWER_BYTES)
        except NotConnected as error:
            return Reply(trouble=CallFault.UNREACHABLE, detail=str(error))
        except Silent as error:
            return Reply(trouble=CallFault.TIMED_OUT, detail=str(error))
        except Broken as error:
            return Reply(trouble=CallFault.LOST, detail=str(error))
        # Cut short it is no JSON any more, and so breaks the contract.
        return Reply(answer.status, bytes(answer.body), _retry_after(answer.header(b"retry-after")))

    async def close(self) -> None:
        """Close the connections."""
        self._server.close()


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which may be a date (RFC 9110 §10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return None
