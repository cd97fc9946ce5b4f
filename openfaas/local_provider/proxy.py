"""Invocation: `/function/NAME[.NAMESPACE][/PATH]`, passed to a ready replica."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from bucky.cloudevents import BATCH_MEDIA_TYPE
from bucky.log import get_logger
from bucky.runtime.connection_pool import Broken, NotConnected, Silent
from local_provider.deployments import InvalidRequest, split_name
from local_provider.functions import DeployedFunction, Functions
from local_provider.metrics import INVOCATIONS, SECONDS
from local_provider.process import IDLE_SECONDS, Replica

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_CONNECTIONS = 512
CONNECT_SECONDS = 2.0
# Above the longest `jetstream.timeout` of the stack file: the connector decides how long to wait.
ANSWER_SECONDS = 3900.0
# A batch of events, and the answer to it, are small by contract: they pass whole, anything else as a stream.
MOST_BATCH_BYTES = 64 * 1024 * 1024
RETRY_AFTER_SECONDS = "1"
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)

_log = get_logger("provider")
Headers = list[tuple[bytes, bytes]]


def new_client() -> httpx.AsyncClient:
    """Return the pooled client for functions on this machine."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=IDLE_SECONDS),
        trust_env=False,
    )


class Proxy:
    """Passes calls to functions."""

    def __init__(self, functions: Functions, client: httpx.AsyncClient) -> None:
        self._functions = functions
        self._client = client

    async def invoke(self, request: Request) -> Response:
        """Answer one call: 404 for an unknown function, 503 when none is ready, 502 when it broke off."""
        started = time.perf_counter()
        name = split_name(request.path_params["name"])
        function = self._functions.get(name)
        call_id = request.headers.get("x-call-id") or str(uuid.uuid4())
        response = await self._forward(request, function, call_id)
        response.headers["X-Call-Id"] = call_id
        function.invocations += 1
        INVOCATIONS.labels(name, response.status_code).inc()
        SECONDS.labels(name).observe(time.perf_counter() - started)
        return response

    async def _forward(self, request: Request, function: DeployedFunction, call_id: str) -> Response:
        name = function.deployed.deployment.service
        while (replica := function.pick()) is not None:
            try:
                if _is_batch(request):
                    return await _batch(request, replica, call_id)
                answer = await self._client.send(_call(request, replica, call_id), stream=True)
            except ClientDisconnect:
                return PlainTextResponse("the caller went away", 400)
            except (httpx.ConnectError, NotConnected):
                # Nothing was sent: another replica may take it. The probe decides when this one is back.
                replica.ready = False
            except httpx.PoolTimeout:
                return _unavailable(f"{name} has too many calls in flight")
            except (httpx.TimeoutException, Silent):
                return PlainTextResponse(f"{name} did not answer in {ANSWER_SECONDS:g} s", 504)
            except (httpx.TransportError, Broken) as error:
                return _broken(replica, error)
            else:
                return _response(answer)
        return _unavailable(f"no replica of {name} is ready")


def _is_batch(request: Request) -> bool:
    """Tell whether a call is one of the connector's, in the function contract."""
    length = request.headers.get("content-length", "")
    is_events = request.method == "POST" and request.headers.get("content-type") == BATCH_MEDIA_TYPE
    return is_events and length.isdecimal() and int(length) <= MOST_BATCH_BYTES


async def _batch(request: Request, replica: Replica, call_id: str) -> Response:
    """Pass a batch of events on, and its answer back."""
    body = await request.body()
    lines = [b"POST " + _target(request) + b" HTTP/1.1"]
    lines += [key + b": " + value for key, value in _request_headers(request, call_id)]
    head = b"\r\n".join(lines)
    answer = await replica.calls.call(head, body, silence=ANSWER_SECONDS, most_bytes=MOST_BATCH_BYTES)
    if answer.cut_short:
        raise Broken(f"it answered more than {MOST_BATCH_BYTES} bytes to a batch of events")
    response = Response(bytes(answer.body), answer.status)
    response.raw_headers = [(key.lower(), value) for key, value in end_to_end(answer.headers)]
    return response


def _call(request: Request, replica: Replica, call_id: str) -> httpx.Request:
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    try:
        url = httpx.URL(replica.url).copy_with(raw_path=_target(request))
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"the path: {error}") from None
    return httpx.Request(
        request.method,
        url,
        headers=_request_headers(request, call_id),
        content=request.stream() if has_body else None,
    )


def _target(request: Request) -> bytes:
    """Return path and query as the function sees them, in the caller's own encoding."""
    raw: bytes = request.scope["raw_path"]
    rest = raw.removeprefix(b"/function/").partition(b"/")[2]
    query: bytes = request.scope["query_string"]
    return b"/" + rest + (b"?" + query if query else b"")


def _request_headers(request: Request, call_id: str) -> Headers:
    kept = [
        (key, value)
        for key, value in end_to_end(request.headers.raw)
        if key not in (b"host", b"expect", b"x-call-id", b"x-start-time")
    ]
    client = request.client.host if request.client else "unknown"
    return [
        (b"host", request.headers.get("host", "").encode("latin-1")),
        *kept,
        (b"x-call-id", call_id.encode("latin-1")),
        (b"x-start-time", str(time.time_ns()).encode()),
        (b"x-forwarded-for", client.encode("latin-1")),
    ]


def end_to_end(headers: Headers) -> Headers:
    """Return the headers without those for one hop (RFC 9110, 7.6.1)."""
    named = {
        token.strip().lower() for key, value in headers if key.lower() == b"connection" for token in value.split(b",")
    }
    return [(key, value) for key, value in headers if key.lower() not in HOP_BY_HOP | named]


def _response(answer: httpx.Response) -> Response:
    async def body() -> AsyncIterator[bytes]:
        async with aclosing(answer):
            async for chunk in answer.aiter_raw():
                yield chunk

    response = StreamingResponse(body(), answer.status_code, background=BackgroundTask(answer.aclose))
    response.raw_headers = [(key.lower(), value) for key, value in end_to_end(answer.headers.raw)]
    return response


def _unavailable(why: str) -> Response:
    return PlainTextResponse(why, 503, headers={"Retry-After": RETRY_AFTER_SECONDS})


def _broken(replica: Replica, error: Exception) -> Response:
    _log.warning("call.broken_off", instance=replica.instance, reason=type(error).__name__)
    return PlainTextResponse(f"{replica.instance} broke off the call", 502)
