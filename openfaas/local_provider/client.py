"""Deploys a stack file through the provider API, as `faas-cli deploy` does, for those without it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import httpx

from bucky.errors import Permanent, Retriable, SettingsError
from bucky.runtime.tls import trust
from bucky.settings import HOME_NAME, Settings, secret_file_name
from local_provider.deployments import Deployment
from local_provider.stack_file import deployments

TIMEOUT_SECONDS = 30.0


def deploy(stack: Path, settings: Settings, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Deploy a stack file's functions with the secrets they declare; return the functions' names.

    `environ` fills in the stack file's `${NAME:-default}` variables.
    Raises `Retriable` when the provider does not answer, `Permanent` when it refuses.
    """
    wanted = deployments(stack, environ)
    with httpx.Client(
        base_url=settings.gateway_url,
        auth=(settings.gateway_user, settings.gateway_password.get_secret_value()),
        timeout=TIMEOUT_SECONDS,
        trust_env=False,
        verify=trust(settings.gateway_url),
    ) as gateway:
        for name, value in _secrets(wanted, settings).items():
            _put_or_post(gateway, "/system/secrets", {"name": name, "value": value}, f"the secret {name}")
        for deployment in wanted:
            _put_or_post(gateway, "/system/functions", deployment.to_json(), deployment.service)
    return tuple(deployment.service for deployment in wanted)


def _secrets(wanted: Iterable[Deployment], settings: Settings) -> dict[str, str]:
    known = {secret_file_name(field): field for field in settings.secret_fields()}
    found = {}
    for deployment in wanted:
        for name in deployment.secrets:
            value = getattr(settings, known[name]).get_secret_value() if name in known else ""
            if not value:
                raise SettingsError(f"{deployment.service} declares the secret {name}, which has no value")
            # The provider keeps it, in a home that may be moved.
            found[name] = value.replace(str(settings.home), HOME_NAME) if name == "index-url" else value
    return found


def _put_or_post(gateway: httpx.Client, path: str, body: object, what: str) -> None:
    """Update what is there; create it when the provider says that it is not."""
    try:
        answer = gateway.put(path, json=body)
        if answer.status_code == httpx.codes.NOT_FOUND:
            answer = gateway.post(path, json=body)
    except httpx.TransportError as error:
        raise Retriable(f"the provider at {gateway.base_url} does not answer: {error}") from None
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise Permanent(f"the provider at {gateway.base_url} does not accept the gateway's user and password")
    if not answer.is_success:
        raise Permanent(f"{what} was not deployed: the provider answered {answer.status_code}: {answer.text}")
