"""Every route of the API reads what it is asked strictly."""

from fastapi.routing import APIRoute

from admin_api import (
    attention_routes,
    conflict_routes,
    dead_letter_routes,
    delivery_routes,
    health_routes,
    queue_routes,
    routing_routes,
    rules_routes,
    study_routes,
    timeline_routes,
)
from admin_api.strict_route import StrictRoute

PARTS = (
    attention_routes,
    conflict_routes,
    dead_letter_routes,
    delivery_routes,
    health_routes,
    queue_routes,
    routing_routes,
    rules_routes,
    study_routes,
    timeline_routes,
)


def test_every_route_is_strict() -> None:
    """A new part of the API that forgot to would drop half of a body, and fail at a NUL."""
    routes = [route for part in PARTS for route in part.routes.routes if isinstance(route, APIRoute)]
    assert len(routes) > 30
    assert [route.path for route in routes if not isinstance(route, StrictRoute)] == []
