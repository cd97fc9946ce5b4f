"""The connector's health and metrics pages."""

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from jetstream_connector.connector import Connector
from jetstream_connector.metrics import Metrics


def pages(connector: Connector, metrics: Metrics) -> Starlette:
    """Return the app that shows how the connector is."""

    async def health(_request: Request) -> Response:
        status = connector.status()
        return JSONResponse(status, 503 if status["status"] == "unavailable" else 200)

    async def exposition(_request: Request) -> Response:
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/health", health), Route("/metrics", exposition)])
