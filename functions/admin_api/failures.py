"""Every failure as a status and one sentence; nothing that was sent is echoed, nothing else is logged."""

import time
import traceback

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from admin_api.measurements import ANSWER_SECONDS
from bucky.errors import NotFound, Permanent, Retriable
from bucky.routing.document import InvalidRouting
from bucky.routing.mistakes import in_a_sentence

RETRY_AFTER_SECONDS = 2
MAX_BODY_BYTES = 4 * 1024 * 1024
QUIET_PATHS = {"/health", "/ready", "/metrics"}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class ErrorBody(BaseModel):
    """What went wrong, in one sentence."""

    error: str


def answer_failures(app: FastAPI) -> None:
    """Make the application answer each kind of failure with its status."""
    app.add_exception_handler(NotFound, _not_found)
    app.add_exception_handler(InvalidRouting, _not_valid)
    app.add_exception_handler(Permanent, _refused)
    app.add_exception_handler(Retriable, _unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def failure(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error answer."""
    return JSONResponse(ErrorBody(error=sentence).model_dump(), status, headers)


async def _not_found(_request: Request, error: Exception) -> JSONResponse:
    return failure(404, str(error))


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    return failure(409, str(error))


async def _not_valid(_request: Request, error: Exception) -> JSONResponse:
    return failure(422, str(error))


async def _unavailable(_request: Request, error: Exception) -> JSONResponse:
    return failure(503, str(error), {"Retry-After": str(RETRY_AFTER_SECONDS)})


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    if first["loc"][0] == "body" and isinstance(error.body, dict):
        return failure(422, in_a_sentence({**first, "loc": first["loc"][1:]}, error.body))
    place = ".".join(str(part) for part in first["loc"])
    return failure(422, f"{place}: {first['msg']}")


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    return failure(error.status_code, str(error.detail), dict(error.headers or {}))


class BodyTooLarge(HTTPException):
    """The request's body is larger than any that makes sense here."""


class OneLinePerRequest:
    """ASGI middleware: the process's failure policy, its access log and its measurements.

    The log has the route's template, never the path or the query, which may name a patient.
    """

    def __init__(self, app: ASGIApp, log: FilteringBoundLogger) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, whatever happens in it, and write its line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, _bounded(receive), noting_status)
        except Exception as error:  # noqa: BLE001 - the one place that owns the failure policy
            where = traceback.extract_tb(error.__traceback__)[-1]
            # Not the message: it may quote what was sent.
            self._log.error(
                "request.failed",
                error=type(error).__name__,
                where=f"{where.filename}:{where.lineno}",
            )
            if status:
                raise ConnectionError("the answer broke off") from None
            sentence = "Something unexpected went wrong here; the log of the admin API says where."
            await failure(500, sentence)(scope, receive, noting_status)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        ANSWER_SECONDS.labels(method, route, status).observe(seconds)
        was_let_through = scope["path"] == "/auth" and status < 400  # its own line follows
        if scope["path"] not in QUIET_PATHS and not was_let_through:
            self._log.info(
                "request.answered",
                method=method,
                route=route,
                status=status,
                milliseconds=round(seconds * 1000, 1),
            )


def _bounded(receive: Receive) -> Receive:
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(413, f"The body is larger than {MAX_BODY_BYTES // 1024**2} MiB.")
        return message

    return bounded
