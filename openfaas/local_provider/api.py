"""The provider's routes: `/system/*` for the gateway's users, `/function/*` for everybody."""

import json
import platform
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from importlib.metadata import version

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from bucky.errors import NotFound, Permanent
from local_provider.auth import BasicAuth
from local_provider.deployments import (
    NAMESPACE,
    AlreadyExists,
    ApiModel,
    Deployment,
    InvalidRequest,
    SecretName,
    check_namespace,
    split_name,
)
from local_provider.functions import Functions
from local_provider.logs import Line
from local_provider.metrics import REPLICAS
from local_provider.proxy import METHODS, Proxy
from local_provider.secrets import MAX_SECRET_BYTES, Secret

MAX_BODY_BYTES = 4 * MAX_SECRET_BYTES
FOLLOW_SECONDS = 600.0


class DeleteFunction(ApiModel):
    """The body of `DELETE /system/functions`."""

    function_name: str


class Scale(ApiModel):
    """The body of `POST /system/scale-function/NAME`."""

    replicas: int = Field(ge=0)


class DeleteSecret(ApiModel):
    """The body of `DELETE /system/secrets`."""

    name: SecretName
    namespace: str = ""


class SystemApi:
    """The provider REST API that `faas-cli` and the connector use."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    async def list_functions(self, request: Request) -> Response:
        """Return every function's status."""
        check_namespace(request.query_params.get("namespace", ""))
        return JSONResponse([each.status() for each in self._functions])

    async def create_function(self, request: Request) -> Response:
        """Deploy a new function."""
        self._functions.create(Deployment.parse(await _body(request)))
        return Response(status_code=202)

    async def update_function(self, request: Request) -> Response:
        """Update a function; 404 tells `faas-cli` to create it."""
        self._functions.update(Deployment.parse(await _body(request)))
        return Response(status_code=202)

    async def delete_function(self, request: Request) -> Response:
        """Remove a function."""
        self._functions.remove(split_name(DeleteFunction.parse(await _body(request)).function_name))
        return Response(status_code=202)

    async def describe_function(self, request: Request) -> Response:
        """Return one function's status."""
        return JSONResponse(self._functions.get(split_name(request.path_params["name"])).status())

    async def scale_function(self, request: Request) -> Response:
        """Set a function's number of replicas."""
        self._functions.scale(split_name(request.path_params["name"]), Scale.parse(await _body(request)).replicas)
        return Response(status_code=202)

    async def logs(self, request: Request) -> Response:
        """Return a function's log as lines of JSON, and new lines while `follow` is set."""
        query = request.query_params
        log = self._functions.get(split_name(query.get("name", ""))).log
        recent = log.recent(_tail(query.get("tail", "")), _since(query.get("since", "")), query.get("instance", ""))
        follow = query.get("follow", "").lower() in ("1", "t", "true")

        async def lines() -> AsyncIterator[bytes]:
            for line in recent:
                yield _encoded(line)
            if follow:
                async for line in log.follow(FOLLOW_SECONDS):
                    yield _encoded(line)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def list_secrets(self, request: Request) -> Response:
        """Return the names of the secrets."""
        check_namespace(request.query_params.get("namespace", ""))
        return JSONResponse([{"name": name, "namespace": NAMESPACE} for name in self._functions.secret_names()])

    async def create_secret(self, request: Request) -> Response:
        """Keep a new secret."""
        self._functions.create_secret(Secret.parse(await _body(request)))
        return Response(status_code=202)

    async def update_secret(self, request: Request) -> Response:
        """Change a secret."""
        self._functions.update_secret(Secret.parse(await _body(request)))
        return Response(status_code=202)

    async def delete_secret(self, request: Request) -> Response:
        """Remove a secret."""
        named = DeleteSecret.parse(await _body(request))
        check_namespace(named.namespace)
        self._functions.remove_secret(named.name)
        return Response(status_code=202)

    async def info(self, _: Request) -> Response:
        """Return what `faas-cli version` shows: provider and gateway are one here."""
        release = {"release": version("bucky"), "sha": "", "commit_message": ""}
        provider = {"provider": "bucky-local", "orchestration": "processes", "version": release}
        return JSONResponse({"provider": provider, "version": release, "arch": platform.machine()})

    async def namespaces(self, _: Request) -> Response:
        """Return the one namespace."""
        return JSONResponse([NAMESPACE])


def build_app(functions: Functions, proxy: Proxy, user: str, password: str) -> Starlette:
    """Return the whole provider as one application."""
    api = SystemApi(functions)
    system = [
        Route("/functions", api.list_functions, methods=["GET"]),
        Route("/functions", api.create_function, methods=["POST"]),
        Route("/functions", api.update_function, methods=["PUT"]),
        Route("/functions", api.delete_function, methods=["DELETE"]),
        Route("/function/{name}", api.describe_function, methods=["GET"]),
        Route("/scale-function/{name}", api.scale_function, methods=["POST"]),
        Route("/logs", api.logs, methods=["GET"]),
        Route("/secrets", api.list_secrets, methods=["GET"]),
        Route("/secrets", api.create_secret, methods=["POST"]),
        Route("/secrets", api.update_secret, methods=["PUT"]),
        Route("/secrets", api.delete_secret, methods=["DELETE"]),
        Route("/info", api.info, methods=["GET"]),
        Route("/namespaces", api.namespaces, methods=["GET"]),
    ]

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("OK")

    async def health(_: Request) -> Response:
        states = {
            each.deployed.deployment.service: f"{each.available} of {each.deployed.replicas} ready"
            for each in functions
        }
        ready = all(each.available == each.deployed.replicas for each in functions)
        return JSONResponse({"ready": ready, "functions": states}, 200 if ready else 503)

    async def metrics(_: Request) -> Response:
        REPLICAS.clear()
        for each in functions:
            REPLICAS.labels(each.deployed.deployment.service).set(each.available)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/function/{name}", proxy.invoke, methods=METHODS),
            Route("/function/{name}/{path:path}", proxy.invoke, methods=METHODS),
            Mount("/system", routes=system, middleware=[Middleware(BasicAuth, user, password)]),
        ],
        exception_handlers={
            NotFound: _answer(404),
            AlreadyExists: _answer(409),
            Permanent: _answer(400),
        },
    )


def _answer(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handler(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), status)

    return handler


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"a request here has at most {MAX_BODY_BYTES} bytes")
    return body


def _tail(text: str) -> int:
    try:
        return int(text or "0")
    except ValueError:
        raise InvalidRequest("tail: not a whole number") from None


def _since(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise InvalidRequest("since: not a time such as 2026-01-31T08:00:00Z") from None
    if moment is not None and moment.tzinfo is None:
        raise InvalidRequest("since: needs a time zone, such as the Z of 2026-01-31T08:00:00Z")
    return moment


def _encoded(line: Line) -> bytes:
    return json.dumps(line.to_json()).encode() + b"\n"
