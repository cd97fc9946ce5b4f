"""Where functions are found: the gateway of OpenFaaS, or a stack file; anything with `functions()` will do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import httpx
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bucky.errors import Retriable
from bucky.runtime.tls import trust
from bucky.text.documents import InvalidDocument, read_yaml

TIMEOUT_SECONDS = 5.0


class DirectoryUnavailable(Retriable):
    """The list of functions cannot be read just now; the last one stays in force."""


class FunctionSubscription(BaseModel):
    """A deployed function and its annotations."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    annotations: Mapping[str, str] | None = None


_FUNCTIONS = TypeAdapter(list[FunctionSubscription])


class _Described(BaseModel):
    """A function of a stack file; numbers need no quotes, as for faas-cli."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)
    annotations: Mapping[str, str] | None = None


class _Stack(BaseModel):
    """A stack file; an empty one, or half of one, must not take every function away."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    functions: Mapping[str, _Described | None] = Field(min_length=1)


class Directory(Protocol):
    """Lists the functions there are."""

    async def functions(self) -> list[FunctionSubscription]:
        """Return all functions; raise `DirectoryUnavailable`."""


class GatewayDirectory:
    """Asks `GET {gateway}/system/functions`, with basic authentication."""

    def __init__(self, gateway_url: str, user: str, password: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=gateway_url,
            auth=(user, password) if password else None,
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            verify=trust(gateway_url),
        )

    async def functions(self) -> list[FunctionSubscription]:
        """Return the functions that the gateway knows."""
        try:
            response = await self._client.get("/system/functions")
        except httpx.TransportError as error:
            raise DirectoryUnavailable(f"the gateway cannot be reached: {type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            raise DirectoryUnavailable(
                f"the gateway answered {response.status_code} to GET /system/functions; "
                "check BUCKY_GATEWAY_URL, BUCKY_GATEWAY_USER and BUCKY_GATEWAY_PASSWORD"
            )
        try:
            return _FUNCTIONS.validate_json(response.content)
        except ValidationError as error:
            raise DirectoryUnavailable("the gateway's list of functions cannot be understood") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class StackFileDirectory:
    """Reads the functions of a stack file (`openfaas/stack.yaml`), anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def functions(self) -> list[FunctionSubscription]:
        """Return the functions that the file describes."""
        try:
            stack = _Stack.model_validate(read_yaml(self._path.read_text(encoding="utf-8")))
        except InvalidDocument as error:
            raise DirectoryUnavailable(f"the stack file {self._path}: {error}") from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole of it"
            raise DirectoryUnavailable(f"the stack file {self._path}: {place}: {first['msg']}") from None
        except UnicodeError:
            raise DirectoryUnavailable(f"the stack file {self._path} is not UTF-8") from None
        except OSError as error:
            raise DirectoryUnavailable(f"the stack file {self._path} cannot be read: {error.strerror}") from None
        return [
            FunctionSubscription(name=name, annotations=function.annotations if function else None)
            for name, function in stack.functions.items()
        ]

    async def close(self) -> None:
        """Do nothing: the file is not kept open."""
