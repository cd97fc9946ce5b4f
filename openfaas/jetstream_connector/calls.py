"""Calls functions through the gateway: one pooled HTTP client, every outcome a `Reply`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import httpx

from bucky.events import BATCH_MEDIA_TYPE
from jetstream_connector.outcomes import Reply, Trouble

CONNECT_SECONDS = 5.0
# Shorter than servers keep an idle connection, so that none is closed under a request.
IDLE_SECONDS = 2.0
KEPT_CONNECTIONS = 200
MOST_ANSWER_BYTES = 32 * 1024 * 1024


class Caller(Protocol):
    """Sends a batch to a function."""

    async def call(self, function: str, events: Sequence[bytes], timeout: float) -> Reply:  # noqa: ASYNC109
        """Send events, each in structured JSON, and return what came back; never raises for the network."""


class GatewayCaller:
    """Calls `POST {gateway}/function/NAME`."""

    def __init__(self, gateway_url: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=gateway_url,
            limits=httpx.Limits(
                # The annotations limit the calls; a limit here would let functions that hang delay others.
                max_connections=None,
                max_keepalive_connections=KEPT_CONNECTIONS,
                keepalive_expiry=IDLE_SECONDS,
            ),
            trust_env=False,
        )

    async def call(self, function: str, events: Sequence[bytes], timeout: float) -> Reply:  # noqa: ASYNC109
        """Send a batch; `timeout` seconds is the longest silence while the function works."""
        request = self._client.build_request(
            "POST",
            f"/function/{function}",
            content=b"[" + b",".join(events) + b"]",
            headers={"Content-Type": BATCH_MEDIA_TYPE},
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                return await _reply(response)
            finally:
                await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Reply(trouble=Trouble.UNREACHABLE, detail=type(error).__name__)
        except httpx.TimeoutException as error:
            return Reply(trouble=Trouble.TIMED_OUT, detail=type(error).__name__)
        except httpx.TransportError as error:
            return Reply(trouble=Trouble.LOST, detail=type(error).__name__)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _reply(response: httpx.Response) -> Reply:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MOST_ANSWER_BYTES:
            # Cut short it is no JSON any more, and so breaks the contract.
            break
    return Reply(response.status_code, bytes(body), _retry_after(response.headers.get("retry-after")))


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
