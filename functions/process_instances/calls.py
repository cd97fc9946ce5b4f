"""Calling a function: one CloudEvent goes out, DICOM files come back.

answer                                          what it means
200 multipart/related or application/dicom      its results
204, or 200 with the contract's JSON            no results; or it failed, and says how
404, 401, 403, 429, 503, no connection          it is away or busy: not an attempt
any other 4xx                                   it refuses this for good
5xx, a broken connection, no end in time        a failed attempt
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from urllib.parse import quote

import httpx

from bucky.cloudevents import MEDIA_TYPE, CloudEvent
from bucky.errors import DestinationUnavailable, Permanent, Retriable
from bucky.routing.rules import Process
from bucky.runtime.tls import MISCONFIGURED_RETRY_SECONDS, trust
from bucky.serve.contract import BatchResult
from process_instances.parts import Malformed, Parts
from process_instances.results import Results

CONNECT_SECONDS = 5.0
PIECE_BYTES = 256 * 1024
MOST_JSON_BYTES = 1024 * 1024
SHOWN_BYTES = 500
# What is compressed could be of any size when it is not any more.
_HEADERS = {
    "Content-Type": MEDIA_TYPE,
    "Accept": "multipart/related, application/dicom, */*;q=0.1",
    "Accept-Encoding": "identity",
}
_BUSY = frozenset({429, 503})
_MISCONFIGURED = frozenset({401, 403, 404})


class Failed(Retriable):
    """The function was given it and failed; `detail` is what it said, which may name a patient."""

    def __init__(self, message: str, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.detail = detail


class Refused(Permanent):
    """The function will not take it; `detail` is what it said, which may name a patient."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class FunctionCalls:
    """Calls functions at a gateway."""

    def __init__(self, gateway_url: str) -> None:
        self._url = gateway_url.rstrip("/")
        self._client = httpx.Client(trust_env=False, follow_redirects=False, verify=trust(gateway_url))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, process: Process, event: CloudEvent, results: Results) -> None:
        """Call a function and add what it answers to the results.

        Raises `DestinationUnavailable` when it was not given the event, `Failed`, and `Permanent` when it refuses
        or its answer is not sound.
        """
        name, seconds = process.function, process.timeout_seconds
        deadline = time.monotonic() + seconds
        try:
            with (
                self._client.stream(
                    "POST",
                    f"{self._url}/function/{quote(name)}",
                    content=event.to_json(),
                    headers=_HEADERS | ({"traceparent": event.traceparent} if event.traceparent else {}),
                    timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS),
                ) as response,
                _cut_at(deadline, response),
            ):
                self._take(response, name, event, results, deadline)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise DestinationUnavailable(f"the gateway of the function {name} cannot be reached") from error
        except httpx.TimeoutException as error:
            raise _too_slow(name, seconds) from error
        except httpx.RequestError as error:
            if time.monotonic() >= deadline:
                raise _too_slow(name, seconds) from error
            raise Failed(f"the call of the function {name} broke off ({type(error).__name__})") from error
        except _PastDeadline:
            raise _too_slow(name, seconds) from None

    def _take(self, response: httpx.Response, name: str, event: CloudEvent, results: Results, deadline: float) -> None:
        _check_status(response, name)
        if response.status_code == httpx.codes.NO_CONTENT:
            return
        header = Message()
        header["content-type"] = response.headers.get("content-type", "")
        media_type, pieces = header.get_content_type(), _until(response, deadline)
        if media_type == "multipart/related":
            self._take_parts(pieces, str(header.get_param("boundary", "")), name, results)
        elif media_type == "application/dicom":
            results.add(pieces)
        elif media_type == "application/json":
            _check_answer(_whole(pieces, name), name, event)
        else:
            raise Permanent(
                f"the function {name} answered with neither DICOM (multipart/related, application/dicom) nor the "
                "JSON of the function contract: nothing was kept"
            )

    def _take_parts(self, pieces: Iterator[bytes], boundary: str, name: str, results: Results) -> None:
        if not 0 < len(boundary) <= 70 or not boundary.isascii():
            raise Permanent(f"the function {name} answered with multipart/related without a boundary: nothing was kept")
        try:
            for headers, content in Parts(pieces, boundary):
                if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/dicom":
                    raise Permanent(
                        f"the function {name} answered with a part that is not application/dicom: nothing was kept"
                    )
                results.add(content)
        except Malformed as error:
            # A function that ends before it has said all of it looks just so.
            raise Failed(f"the answer of the function {name} is not whole: {error}") from error


class _PastDeadline(Exception):
    """There is no time left for the rest of the answer."""


@contextmanager
def _cut_at(deadline: float, response: httpx.Response) -> Iterator[None]:
    """End the connection when the time is over: a client's timeouts are for each read, not for all of them."""
    connection: socket.socket = response.extensions["network_stream"].get_extra_info("socket")

    def cut() -> None:
        with suppress(OSError):  # it has just ended by itself
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _until(response: httpx.Response, deadline: float) -> Iterator[bytes]:
    for piece in response.iter_raw(PIECE_BYTES):
        if time.monotonic() > deadline:
            raise _PastDeadline
        yield piece


def _too_slow(name: str, seconds: float) -> Failed:
    return Failed(f"the function {name} did not answer in {seconds:g} s (timeout_seconds of the rule)")


def _check_status(response: httpx.Response, name: str) -> None:
    """Raise what any status but 200 and 204 means."""
    code = response.status_code
    if code in (httpx.codes.OK, httpx.codes.NO_CONTENT):
        return
    said = f"the function {name} answered HTTP {code}"
    if code in _BUSY:
        wait = response.headers.get("retry-after", "")
        raise DestinationUnavailable(f"{said}: it is not ready or busy", float(wait) if wait.isdecimal() else None)
    if code in _MISCONFIGURED:
        raise DestinationUnavailable(f"{said}: deploy it, or check the gateway", MISCONFIGURED_RETRY_SECONDS)
    detail = next(response.iter_raw(SHOWN_BYTES), b"").decode("utf-8", "replace")
    if response.is_client_error:
        raise Refused(f"{said}: it does not take this", detail)
    raise Failed(said, detail)


def _whole(pieces: Iterator[bytes], name: str) -> bytes:
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > MOST_JSON_BYTES:
            raise Permanent(f"the JSON that the function {name} answered is too long: nothing was kept")
    return bytes(body)


def _check_answer(body: bytes, name: str, event: CloudEvent) -> None:
    """Raise what the function says of the event; return when it has nothing to say."""
    try:
        answer = BatchResult.parse(body, [event.id])
    except ValueError:
        raise Permanent(f"the JSON that the function {name} answered is not that of the function contract") from None
    if answer.events:
        raise Permanent(f"the function {name} answered with events; only DICOM comes back in: nothing was kept")
    for failure in answer.failures:
        if not failure.retryable:
            raise Refused(f"the function {name} refused it", failure.reason)
        if not failure.attempted:
            raise DestinationUnavailable(f"the function {name} cannot take it now", failure.retry_after)
        raise Failed(f"the function {name} failed", failure.reason, failure.retry_after)
