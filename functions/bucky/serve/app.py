"""The ASGI app of one function: POST runs the handler, GET tells how it is.

Two events of one batch may share an id. Exact duplicates (same id, source and type) are processed once.
Others are each processed and share one outcome: if either fails, their id is reported as failed, once.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bucky.cloudevents import CloudEvent
from bucky.errors import BuckyError, Permanent, Retriable
from bucky.serve.answering import ResultsFile, ResultsResponse
from bucky.serve.cloudevents import MalformedRequest, read_events
from bucky.serve.contract import BatchResult
from bucky.serve.dependencies import Dependencies
from bucky.serve.handlers import Handler, RefusedBatch, failure_of, make_context
from bucky.serve.processing_input import ProcessingInput

RETRY_AFTER_SECONDS = "1"


class FunctionApp:
    """Serves one handler; `max_in_flight` batches at once, `max_body_bytes` each."""

    def __init__(
        self, handler: Handler, dependencies: Dependencies, *, max_body_bytes: int, max_in_flight: int
    ) -> None:
        self._handler = handler
        self._context = make_context(handler)
        self._dependencies = dependencies
        self._max_body_bytes = max_body_bytes
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        self._metrics = _Metrics(handler.function)
        routes = [
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/_/ready", self._ready),
            Route("/metrics", self._metrics.page),
            Route("/{path:path}", self._call, methods=["POST"]),
        ]
        self.asgi = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})

    async def drain(self, seconds: float) -> bool:
        """Refuse new batches, finish those in flight; return whether all finished in time."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "function": self._handler.function, "in_flight": self._in_flight})

    async def _ready(self, _request: Request) -> Response:
        trouble = await self._trouble()
        status = {"status": "ok"} if trouble is None else {"status": "unavailable", "reason": trouble}
        return JSONResponse({"function": self._handler.function, **status}, 200 if trouble is None else 503)

    async def _trouble(self) -> str | None:
        return "draining" if self.draining else await self._dependencies.trouble()

    async def _call(self, request: Request) -> Response:
        # Without its dependencies every event would fail, and burn an attempt for nothing: say so once.
        trouble = await self._trouble()
        if trouble is not None:
            return _refusal(503, trouble)
        if self._in_flight >= self._max_in_flight:
            return _refusal(429, f"{self._max_in_flight} batches are in flight already")
        self._in_flight += 1
        self._idle.clear()
        try:
            response = await self._answer(request)
        except BaseException:
            self._ended()
            raise
        if not isinstance(response, ResultsResponse):
            self._ended()
        return response

    def _ended(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    async def _answer(self, request: Request) -> Response:
        started = time.perf_counter()
        events: Sequence[CloudEvent] = ()
        result = BatchResult(failures=(), events=())
        results: ResultsFile | None = None
        status, error = 200, None
        try:
            events = _without_duplicates(read_events(request.headers, await self._body(request)))
            if self._handler.kind == "process":
                result, results = await self._process(events)
            else:
                result = await self._handler.run(events, self._context, self._dependencies.values)
        except MalformedRequest as malformed:
            status, error = 400, str(malformed)
        except RefusedBatch as refused:
            status, error = 422, str(refused)
        except _TooLarge as too_large:
            status, error = 413, str(too_large)
        except Exception as unexpected:
            # The failure policy of this process: a bug is answered with 500, and the caller decides.
            status, error = 500, f"unexpected {type(unexpected).__name__}"
            self._context.log.exception("handler.unexpected")
        self._record(events, result, status, error, time.perf_counter() - started)
        if error is not None:
            return JSONResponse({"error": error}, status)
        if results is not None:
            return ResultsResponse(results, self._ended)
        return Response(result.to_json(), media_type="application/json")

    async def _process(self, events: Sequence[CloudEvent]) -> tuple[BatchResult, ResultsFile | None]:
        """Let the handler process one event; return its results, or how it failed."""
        if len(events) != 1:
            raise MalformedRequest("a function that processes takes one event at a time")
        results = ResultsFile()
        try:
            given = ProcessingInput.of(events[0])
            make = partial(self._handler.call, given, self._context, **self._dependencies.values)
            await asyncio.to_thread(lambda: results.fill(make()))
        except (Permanent, Retriable) as error:
            results.file.close()
            return BatchResult(failures=(failure_of(events[0].id, error),), events=()), None
        except BaseException:
            results.file.close()
            raise
        return BatchResult(failures=(), events=()), results

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                raise _TooLarge(f"the body is larger than {self._max_body_bytes} bytes; send fewer events at once")
        return bytes(body)

    def _record(
        self, events: Sequence[CloudEvent], result: BatchResult, status: int, error: str | None, seconds: float
    ) -> None:
        failures = len(result.failures) if status == HTTPStatus.OK else len(events)
        self._metrics.record(status, len(events), failures, seconds)
        extra: dict[str, Any] = {"error": error} if error else {}
        if result.failures:
            extra["reasons"] = sorted({failure.reason for failure in result.failures})[:5]
        self._context.log.info(
            "function.batch",
            function=self._handler.function,
            status=status,
            items=len(events),
            failures=failures,
            events=len(result.events),
            duration_ms=round(seconds * 1000, 1),
            **extra,
        )


class _TooLarge(Exception):
    """The request's body is over the limit."""


class _Metrics:
    """What Prometheus reads at /metrics."""

    def __init__(self, function: str) -> None:
        self._registry = CollectorRegistry()
        self._events = Counter(
            "bucky_function_events_total",
            "Events processed, by outcome",
            ["function", "outcome"],
            registry=self._registry,
        )
        self._batches = Histogram(
            "bucky_function_batch_seconds",
            "Time to process a batch, by HTTP status",
            ["function", "status"],
            registry=self._registry,
        )
        self._last = Gauge(
            "bucky_function_last_batch_timestamp_seconds",
            "When the last batch was answered",
            ["function"],
            registry=self._registry,
        )
        self._function = function

    def record(self, status: int, items: int, failures: int, seconds: float) -> None:
        self._events.labels(self._function, "success").inc(items - failures)
        self._events.labels(self._function, "failure").inc(failures)
        self._batches.labels(self._function, str(status)).observe(seconds)
        self._last.labels(self._function).set_to_current_time()

    async def page(self, _request: Request) -> Response:
        # The function's own, and what its handler measures by itself.
        page = generate_latest(self._registry) + generate_latest(REGISTRY)
        return Response(page, media_type=CONTENT_TYPE_LATEST)


def _without_duplicates(events: Sequence[CloudEvent]) -> list[CloudEvent]:
    return list({(event.id, event.source, event.type): event for event in events}.values())


def _refusal(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status, headers={"Retry-After": RETRY_AFTER_SECONDS})


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise BuckyError("only HTTP errors are answered here") from error
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
