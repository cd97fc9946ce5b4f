"""Traefik in front of everything: `infra/traefik` as a program with this stack's ports and addresses."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from local_stack.certificates import CertificateFiles
from local_stack.process import Program, http_ok
from local_stack.servers import HOST, REPOSITORY, installed

TRAEFIK_FOLDER = REPOSITORY / "infra" / "traefik"


@dataclass(frozen=True)
class GatewayPorts:
    """Where Traefik listens; `http` only redirects, `health` is for loopback."""

    http: int
    https: int
    s3: int
    console: int
    health: int


@dataclass(frozen=True)
class Upstreams:
    """URLs of what stands behind Traefik."""

    provider: str
    admin: str
    s3: str
    console: str


def traefik(ports: GatewayPorts, upstreams: Upstreams, certificates: CertificateFiles, host: str = HOST) -> Program:
    """Return Traefik, listening on `host` and ready when its ping answers."""
    static = yaml.safe_load((TRAEFIK_FOLDER / "traefik.yaml").read_text())
    addresses = {
        "web": f"{host}:{ports.http}",
        "websecure": f"{host}:{ports.https}",
        "s3": f"{host}:{ports.s3}",
        "console": f"{host}:{ports.console}",
        "health": f"{HOST}:{ports.health}",
    }
    for name, address in addresses.items():
        static["entryPoints"][name]["address"] = address
    static["providers"]["file"]["directory"] = str(TRAEFIK_FOLDER / "dynamic")
    return Program(
        name="traefik",
        argv=(installed("traefik"), *arguments(static)),
        env={
            "BUCKY_TRAEFIK_PROVIDER_URL": upstreams.provider,
            "BUCKY_TRAEFIK_ADMIN_URL": upstreams.admin,
            "BUCKY_TRAEFIK_S3_URL": upstreams.s3,
            "BUCKY_TRAEFIK_CONSOLE_URL": upstreams.console,
            "BUCKY_TRAEFIK_CERT_FILE": str(certificates.cert),
            "BUCKY_TRAEFIK_KEY_FILE": str(certificates.key),
        },
        ready=http_ok(ping_url(ports)),
        address=f"https://localhost:{ports.https}",
    )


def ping_url(ports: GatewayPorts) -> str:
    """Return the URL that answers 200 while Traefik is up."""
    return f"http://{HOST}:{ports.health}/ping"


def arguments(static: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Write a static configuration as command-line arguments: Traefik reads a file or arguments, not both."""
    for name, value in static.items():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            yield from arguments(value, path)
        else:
            yield f"--{path}={_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)
