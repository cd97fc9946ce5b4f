"""Reads an OpenFaaS stack file into the deployments that `faas-cli deploy` would send.

Templates are looked for in the folder `template` beside the stack file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bucky.errors import SettingsError
from bucky.text.documents import MOST_BYTES, InvalidDocument, read_yaml
from local_provider.deployments import Deployment, InvalidRequest, Resources

# A template is a folder beside the stack file, and nothing else.
TEMPLATE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# What drone/envsubst, which faas-cli uses, makes of `${NAME}`, `${NAME:-default}` and `${NAME:=default}`.
VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::?[-=](?P<default>[^}]*))?\}")


class _Yaml(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class _Strict(_Yaml):
    """A part whose keys are known: a misspelt one, such as `anotations`, would silently be no key at all."""

    IGNORED: ClassVar[frozenset[str]] = frozenset()
    """Keys of faas-cli that mean nothing to a local process."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, content: Any) -> Any:
        known = cls.model_fields.keys() | cls.IGNORED
        for key in content if isinstance(content, dict) else ():
            if key not in known and not str(key).startswith("x-"):
                raise ValueError(f"there is no key {key!r} here; there are {', '.join(sorted(known))}")
        return content


class StackFunction(_Strict):
    """One function of a stack file."""

    IGNORED = frozenset(
        {"name", "registry_auth", "skip_build", "build_options", "build_secrets", "platforms", "extra_paths", "copy"}
    )

    lang: str = ""
    handler: str = ""
    image: str = ""
    fprocess: str = ""
    namespace: str = ""
    build_args: dict[str, str] = {}
    environment: dict[str, str] = {}
    environment_file: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    limits: Resources | None = None
    requests: Resources | None = None
    readonly_root_filesystem: bool = False


class StackProvider(_Strict):
    """Whose stack file it is, and where it is deployed to by default."""

    IGNORED = frozenset({"network"})

    name: str
    gateway: str = ""


class StackFile(_Strict):
    """A stack file."""

    IGNORED = frozenset({"version", "configuration"})

    provider: StackProvider
    functions: dict[str, StackFunction] = Field(min_length=1)


Model = TypeVar("Model", bound=_Yaml)


class _Template(_Yaml):
    fprocess: str = ""


def read_stack(path: Path, environ: Mapping[str, str] | None = None) -> StackFile:
    """Return a stack file with its variables filled in; raise `SettingsError` in one sentence."""
    text = _text(path)
    filled = VARIABLE.sub(lambda found: (environ or {}).get(found["name"]) or found["default"] or "", text)
    if "${" in filled:
        raise SettingsError(f"{path}: only ${{NAME}} and ${{NAME:-default}} are understood")
    stack = _parse(StackFile, filled, path)
    if stack.provider.name != "openfaas":
        raise SettingsError(f"{path}: provider.name must be openfaas")
    for name, function in stack.functions.items():
        if function.environment_file:
            raise SettingsError(f"{path}: {name} has an environment_file; write its environment here instead")
    return stack


def deployments(path: Path, environ: Mapping[str, str] | None = None) -> list[Deployment]:
    """Return the stack file's deployments, in its order."""
    stack = read_stack(path, environ)
    try:
        return [_deployment(name, function, path.parent / "template") for name, function in stack.functions.items()]
    except (ValidationError, InvalidRequest) as error:
        raise SettingsError(f"{path}: {error}") from None


def _deployment(name: str, function: StackFunction, templates: Path) -> Deployment:
    return Deployment(
        service=name,
        image=function.image,
        namespace=function.namespace,
        env_process=_fprocess(function, templates),
        env_vars=function.environment,
        constraints=function.constraints,
        secrets=function.secrets,
        labels=function.labels,
        annotations=function.annotations,
        limits=function.limits,
        requests=function.requests,
        read_only_root_filesystem=function.readonly_root_filesystem,
    )


def _fprocess(function: StackFunction, templates: Path) -> str:
    if not function.lang or function.lang.lower() == "dockerfile":
        return function.fprocess
    if not TEMPLATE.fullmatch(function.lang):
        raise InvalidRequest(f"lang {function.lang[:100]!r} is not the name of a template")
    path = templates / function.lang / "template.yml"
    if not path.is_file():
        raise InvalidRequest(f"there is no template {function.lang} in {templates}")
    return _parse(_Template, _text(path), path).fprocess


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1).decode()
    except UnicodeError:
        raise SettingsError(f"{path}: it is not UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None


def _parse(model: type[Model], text: str, path: Path) -> Model:
    try:
        return model.model_validate(read_yaml(text))
    except InvalidDocument as error:
        raise SettingsError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{path}: {where}: {first['msg']}") from None
