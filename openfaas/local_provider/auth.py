"""Basic authentication for `/system/*`, as OpenFaaS's gateway asks it."""

import base64
import secrets

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class BasicAuth:
    """Lets a request pass that carries the one user and password."""

    def __init__(self, app: ASGIApp, user: str, password: str) -> None:
        self._app = app
        self._expected = f"{user}:{password}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http" and not self._is_known(Headers(scope=scope).get("authorization", "")):
            refusal = PlainTextResponse(
                "user or password is wrong; `faas-cli login` sets them",
                401,
                headers={"WWW-Authenticate": 'Basic realm="Restricted"'},
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, header: str) -> bool:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(token.strip(), validate=True)
        except ValueError:
            return False
        return secrets.compare_digest(given, self._expected)
