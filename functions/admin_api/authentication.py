"""Who may ask: one key, presented in a header, as a bearer token or as a password."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from bucky.errors import SettingsError

BASIC_USER = "admin"
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
# Everything else needs the key, so a route added later is closed unless it is named here.
OPEN_PATHS = {"/health", "/ready", "/metrics"}
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Bucky", charset="UTF-8"', "Cache-Control": "no-store"}
UNAUTHENTICATED = "Present the API key: header X-Api-Key, Authorization: Bearer, or Basic with user admin."
CROSS_SITE = "A page of another site may not change anything here."


class Authenticator:
    """Compares presented keys with the one that opens the API, in constant time."""

    def __init__(self, key: str) -> None:
        if not key:
            raise SettingsError(
                "BUCKY_API_KEY is empty, so anybody could read patient data; set it, or put it in the file "
                "`api-key` of BUCKY_SECRETS_DIR"
            )
        self._key = key.encode()

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Return whether any of the presented keys is right."""
        return any(hmac.compare_digest(key.encode(), self._key) for key in presented_keys(headers))


def presented_keys(headers: Mapping[str, str]) -> list[str]:
    """Return the keys in `X-Api-Key` and `Authorization` (Bearer, or Basic with the user `admin`)."""
    keys = [headers["x-api-key"]] if headers.get("x-api-key") else []
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        keys.append(value.strip())
    elif scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return keys
        if user == BASIC_USER:
            keys.append(password)
    return keys


def is_cross_site(headers: Mapping[str, str], method: str, host: str) -> bool:
    """Return whether a browser sends this change on behalf of another site, with remembered credentials."""
    if method.upper() in SAFE_METHODS:
        return False
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != host.lower()
    except ValueError:  # it is no address at all
        return True


class Authentication:
    """ASGI middleware that lets nothing but the open paths through without the key."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or pass the request on."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._authenticator.accepts(headers):
            refusal = JSONResponse({"error": UNAUTHENTICATED}, 401, CHALLENGE)
            await refusal(scope, receive, send)
        elif is_cross_site(headers, *_asked(scope, headers)):
            await JSONResponse({"error": CROSS_SITE}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _asked(scope: Scope, headers: Mapping[str, str]) -> tuple[str, str]:
    # `/auth` decides for the request Traefik holds, which it describes in these headers.
    if scope["path"] == "/auth":
        return headers.get("x-forwarded-method", "POST"), headers.get("x-forwarded-host", "")
    return scope["method"], headers.get("x-forwarded-host") or headers.get("host", "")
