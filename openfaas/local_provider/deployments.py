"""What is deployed: the provider API's own JSON, checked, and kept on disk."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from bucky.errors import Permanent, SettingsError
from local_provider import durable

NAMESPACE = "openfaas-fn"
READY_PATH_ANNOTATION = "com.openfaas.ready.http.path"
MAX_REPLICAS = 64
# Names become file names and URL paths: the DNS label that OpenFaaS requires is safe as both. A secret's draft
# (`durable.write`) has five characters more, and the longest file name 255 bytes.
NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
SECRET_NAME = r"^[a-z0-9]([-a-z0-9.]{0,248}[a-z0-9])?$"  # noqa: S105 - a pattern, not a secret
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"

FunctionName = Annotated[str, Field(pattern=NAME)]
SecretName = Annotated[str, Field(pattern=SECRET_NAME)]
Variable = Annotated[str, Field(pattern=VARIABLE)]
# Go clients send `null` for what is not set.
OrEmpty = BeforeValidator(lambda value: {} if value is None else value)
OrNone = BeforeValidator(lambda value: () if value is None else value)


class InvalidRequest(Permanent):
    """The request breaks the provider API; the message says where."""


class AlreadyExists(Permanent):
    """There is one of that name, or it is in use."""


class ApiModel(BaseModel):
    """A body of the provider API: camel case, and unknown keys of newer clients are ignored."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a request body; raise `InvalidRequest` with one sentence."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise InvalidRequest(f"{where}: {first['msg']}") from None

    def to_json(self) -> dict[str, Any]:
        """Return the model as the API's JSON, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


class Resources(ApiModel):
    """Memory and CPU; recorded and shown, not enforced on local processes."""

    memory: str = ""
    cpu: str = ""


class Deployment(ApiModel):
    """A request to create or update a function (`FunctionDeployment` of faas-provider)."""

    service: FunctionName
    image: str = ""
    namespace: str = ""
    env_process: str = ""
    env_vars: Annotated[dict[Variable, str], OrEmpty] = {}
    constraints: Annotated[tuple[str, ...], OrNone] = ()
    secrets: Annotated[tuple[SecretName, ...], OrNone] = ()
    labels: Annotated[dict[str, str], OrEmpty] = {}
    annotations: Annotated[dict[str, str], OrEmpty] = {}
    limits: Resources | None = None
    requests: Resources | None = None
    read_only_root_filesystem: bool = False

    @property
    def ready_path(self) -> str:
        """Where the function says that it can take work; `/ready` unless an annotation names another."""
        return "/" + self.annotations.get(READY_PATH_ANNOTATION, "/ready").lstrip("/")


class Deployed(ApiModel):
    """A deployment as it is kept: with its wanted replicas and when it was first created."""

    deployment: Deployment
    replicas: int = Field(default=1, ge=0, le=MAX_REPLICAS)
    created_at: datetime


class DeploymentStore:
    """One JSON file per function, each replaced atomically and synced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        durable.make_folder(folder)

    def save(self, deployed: Deployed) -> None:
        """Keep a deployment; it is on disk when this returns."""
        durable.write(self._path(deployed.deployment.service), deployed.model_dump_json(by_alias=True).encode())

    def remove(self, name: str) -> None:
        """Forget a deployment."""
        durable.remove(self._path(name))

    def load(self) -> Iterator[Deployed]:
        """Return what is kept, by name."""
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                yield Deployed.parse(path.read_bytes())
            except InvalidRequest as error:
                raise SettingsError(f"{path} is not a deployment ({error}); move it away") from None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def check_namespace(namespace: str) -> None:
    """Raise `InvalidRequest` unless the namespace is ours or left out."""
    if namespace not in ("", NAMESPACE):
        raise InvalidRequest(f"there is one namespace here, {NAMESPACE}; leave the namespace out")


def split_name(name: str) -> str:
    """Return the function of `NAME` or `NAME.NAMESPACE`."""
    function, _, namespace = name.partition(".")
    if not re.fullmatch(NAME, function):
        raise InvalidRequest("a function's name has lower-case letters, digits and hyphens, at most 63")
    check_namespace(namespace)
    return function


def status(deployed: Deployed, available: int, invocations: int, recent_restarts: int = 0) -> Mapping[str, Any]:
    """Return the API's `FunctionStatus`, and how often replicas ended by themselves in the last ten minutes."""
    described = deployed.deployment.to_json()
    described["name"] = described.pop("service")
    return {
        **described,
        "image": deployed.deployment.image,
        "namespace": NAMESPACE,
        "replicas": deployed.replicas,
        "availableReplicas": available,
        "invocationCount": invocations,
        "recentRestarts": recent_restarts,
        "createdAt": deployed.created_at.isoformat().replace("+00:00", "Z"),
    }
