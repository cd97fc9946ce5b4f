"""The application: its routes, and what stands before them."""

from fastapi import FastAPI, Response, Security
from fastapi.security import APIKeyHeader, HTTPBasic, HTTPBearer
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin_api import (
    attention_routes,
    conflict_routes,
    dead_letter_routes,
    delivery_routes,
    docs_page,
    health_routes,
    measurements,
    queue_routes,
    routing_routes,
    rules_routes,
    study_routes,
    timeline_routes,
)
from admin_api.authentication import Authentication, Authenticator
from admin_api.broker_link import BrokerConnection
from admin_api.dead_letters import DeadLetterBox
from admin_api.failures import ErrorBody, OneLinePerRequest, answer_failures
from admin_api.health import HealthBoard
from admin_api.watch import Watch
from bucky.forwarding.places import Places
from bucky.index import Index
from bucky.log import get_logger
from bucky.routing.crosswalk import Crosswalks
from bucky.store.objects import ObjectStore

DESCRIPTION = (
    "What Bucky holds, where it went, and what stands in its way. Present the API key as the header "
    "X-Api-Key, as a bearer token, or as the password of the user admin. Answers may name patients."
)
# For the description alone: the gate decides before any route is looked for.
_SCHEMES = [
    Security(APIKeyHeader(name="X-Api-Key", auto_error=False)),
    Security(HTTPBearer(auto_error=False)),
    Security(HTTPBasic(auto_error=False)),
]
_ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 409, 413, 422, 503)
}


def create_app(
    authenticator: Authenticator,
    index: Index,
    objects: ObjectStore,
    dead_letters: DeadLetterBox,
    health: HealthBoard,
    link: BrokerConnection,
    crosswalks: Crosswalks,
    places: Places,
) -> FastAPI:
    """Return the application."""
    app = FastAPI(
        title="Bucky admin API",
        description=DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(OneLinePerRequest, get_logger("admin-api")),
            Middleware(PrivateAnswers),
            Middleware(Authentication, authenticator),
        ],
    )
    app.state.index, app.state.objects = index, objects
    app.state.dead_letters, app.state.health = dead_letters, health
    app.state.watch = Watch(index, dead_letters, health)
    app.state.link, app.state.crosswalks, app.state.places = link, crosswalks, places
    answer_failures(app)
    for part in (
        health_routes,
        attention_routes,
        study_routes,
        timeline_routes,
        delivery_routes,
        conflict_routes,
        queue_routes,
        routing_routes,
        rules_routes,
        dead_letter_routes,
    ):
        app.include_router(part.routes, dependencies=_SCHEMES, responses=_ERRORS)
    for router in (health_routes.open_routes, measurements.open_routes, docs_page.routes):
        app.include_router(router)
    app.add_api_route("/auth", auth, methods=["GET"], include_in_schema=False)
    return app


async def auth() -> Response:
    """Answer Traefik's ForwardAuth: who gets as far as here has passed the gate."""
    return Response(status_code=204)


class PrivateAnswers:
    """ASGI middleware that keeps every answer out of caches."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add `Cache-Control: no-store`."""

        async def marking(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"cache-control", b"no-store")]
            await send(message)

        await self._app(scope, receive, marking if scope["type"] == "http" else send)
