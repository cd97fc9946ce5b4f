"""A route that takes what it understands whole, or refuses it: bodies, and the names of query parameters."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from bucky.text.documents import InvalidDocument, read_json

Endpoint = Callable[[Request], Awaitable[Response]]


class StrictRoute(APIRoute):
    """Answers 400 for a body that is no JSON or says a thing twice, 422 for a query parameter there is not."""

    def get_route_handler(self) -> Endpoint:  # type: ignore[override]  # a narrower kind of awaitable
        """Return the handler, given a request that reads strictly."""
        handle, known = super().get_route_handler(), frozenset(_query_names(self.dependant))

        async def strictly(request: Request) -> Response:
            for name, value in request.query_params.multi_items():
                if name not in known:
                    there_are = ", ".join(sorted(known)) or "none here"
                    raise HTTPException(422, f"There is no query parameter {name!r}; there are: {there_are}.")
                if "\0" in value:  # PostgreSQL would refuse it
                    raise HTTPException(422, f"The query parameter {name!r} has a NUL character in it: remove it.")
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    """A request whose JSON has each key once."""

    async def json(self) -> Any:
        """Return the body; answer 400 when it is no JSON, or says a thing twice."""
        body = await self.body()
        try:
            return read_json(body)
        except InvalidDocument as error:
            raise HTTPException(400, f"The body: {error}") from None


def _query_names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        yield field.alias
    for part in dependant.dependencies:
        yield from _query_names(part)
