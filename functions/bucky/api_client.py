"""The admin API as the command line uses it: where it is, which key opens it, and what can go wrong."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from bucky.errors import BuckyError
from bucky.settings import Settings

TIMEOUT_SECONDS = 30.0


class ApiFailed(BuckyError):
    """The admin API could not be asked, or refused; the message says what to do."""


@dataclass(frozen=True)
class Access:
    """Where the API is, and what opens it; `ca` is None for a publicly trusted certificate."""

    url: str
    api_key: str
    ca: Path | None


def find_access(settings: Settings, url: str | None, api_key: str | None, ca: Path | None) -> Access:
    """Return what was given, else what is set, else what the embedded stack of `settings.home` wrote."""
    key_file, ca_file = settings.home / "secrets" / "api-key", settings.home / "tls" / "ca.pem"
    key = api_key or settings.api_key.get_secret_value()
    if not key and key_file.is_file():
        key = key_file.read_text().strip()
    if not key:
        raise ApiFailed(
            f"No API key is known, for no stack was ever started in {settings.home.resolve()}. Start one with "
            "`bucky up`, say with --home (or BUCKY_HOME) in which folder it lies, such as --home CLONE/.bucky, or give "
            "--url and --api-key of one elsewhere."
        )
    found_ca = ca or (ca_file if ca_file.is_file() else None)
    return Access((url or _known_url(settings)).rstrip("/"), key, found_ca)


def _known_url(settings: Settings) -> str:
    if "public_url" in settings.model_fields_set:
        return settings.public_url
    return str(_stack_record(settings.home).get("public_url", settings.public_url))


def known_listener(home: Path) -> str | None:
    """Return where the stack of a home listens for DICOM, as `AET@host:port`; None when none was started there."""
    record = _stack_record(home)
    if "dicom" not in record.get("ports", {}):
        return None
    listeners = record.get("settings", {}).get("edge_listeners") or [{}]
    first = {"aet": "BUCKY", "host": "127.0.0.1", "port": record["ports"]["dicom"], **listeners[0]}
    everywhere = first["host"] in {"0.0.0.0", "::", ""}  # noqa: S104 - it is called, not bound
    host = "127.0.0.1" if everywhere else first["host"]
    return f"{first['aet']}@{f'[{host}]' if ':' in host else host}:{first['port']}"


def _stack_record(home: Path) -> dict[str, Any]:
    record = home / "run" / "stack.json"
    found: dict[str, Any] = json.loads(record.read_text()) if record.is_file() else {}
    return found


class ApiClient:
    """Asks the admin API; raises `ApiFailed` with a sentence."""

    def __init__(self, access: Access) -> None:
        self._access = access
        try:
            context = ssl.create_default_context(cafile=str(access.ca) if access.ca else None)
        except (OSError, ssl.SSLError):
            raise ApiFailed(f"{access.ca} is not a readable certificate file.") from None
        self._http = httpx.Client(
            base_url=access.url,
            headers={"X-Api-Key": access.api_key},
            verify=context,
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, str | int | None] | None = None) -> Any:
        """Return the JSON that a GET answers; parameters that are None are left out."""
        wanted = {name: value for name, value in (params or {}).items() if value is not None}
        return self._json(self._answer("GET", path, params=wanted))

    def health(self) -> dict[str, Any]:
        """Return the health of every part, good or bad."""
        answer = self._send("GET", "/api/health")
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "parts" in answer.text:
            body: dict[str, Any] = answer.json()
            return body
        checked: dict[str, Any] = self._json(self._checked(answer))
        return checked

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, version: int | None = None, *, confirm: bool = False
    ) -> Any:
        """Return the JSON that a POST answers; with a version, only while it is that one's turn."""
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        return self._json(self._answer("POST", path, json=body, headers=headers, params=_confirming(confirm)))

    def put(self, path: str, body: Any, version: int, *, confirm: bool = False) -> Any:
        """Replace what had this version; raise `ApiFailed` when it has changed since."""
        headers = {"If-Match": f'"{version}"'}
        return self._json(self._answer("PUT", path, json=body, headers=headers, params=_confirming(confirm)))

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._checked(self._send(method, path, **options))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.ConnectError as error:
            if "CERTIFICATE" in str(error).upper():
                raise ApiFailed(
                    f"The certificate of {self._access.url} is not trusted: give the right CA file with --ca."
                ) from None
            raise ApiFailed(
                f"Bucky does not answer at {self._access.url}: start it with `bucky up`, or give --url."
            ) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise ApiFailed(
                f"{self._access.url} is not the URL of a web service, such as https://localhost:8443."
            ) from None
        except httpx.HTTPError as error:
            raise ApiFailed(
                f"{self._access.url} did not answer properly ({type(error).__name__}); see `bucky status`."
            ) from None

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise ApiFailed(f"{self._access.url} refused the API key: give the right one with --api-key.")
        try:
            sentence = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            raise ApiFailed(
                f"{self._access.url} answered {answer.status_code}; the admin API may be starting or stopped: "
                "see `bucky status`."
            ) from None
        raise ApiFailed(str(sentence))

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise ApiFailed(f"{self._access.url} is not Bucky: it answered something else than JSON.") from None


def _confirming(confirm: bool) -> dict[str, str]:
    return {"confirm": "true"} if confirm else {}
