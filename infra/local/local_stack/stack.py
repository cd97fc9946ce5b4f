"""The embedded stack on one page: which programs run, with which settings, in which order.

A server is left out when its setting points elsewhere: with `BUCKY_STORE_ENDPOINT` set, no object
store is started; with `BUCKY_NATS_URL`, no broker.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bucky.settings import PREFIX, Settings
from local_stack.certificates import ensure_certificates
from local_stack.gateway import GatewayPorts, Upstreams, ping_url, traefik
from local_stack.layout import Home, Ports
from local_stack.own_store import own_store
from local_stack.process import Program, http_ok, tcp_open
from local_stack.servers import HOST, REPOSITORY, nats_server

NATS_USER = "bucky"
# A quarter of a gigabyte on whoever's disk tries it; an edge of its own has more by default.
SLOTS = "256"


@dataclass(frozen=True)
class Stack:
    """What `bucky up` runs: the servers first, then, once they are provisioned, Bucky itself."""

    home: Home
    ports: Ports
    settings: Settings
    servers: tuple[Program, ...]
    services: tuple[Program, ...]


def build(home: Home, ports: Ports, environ: Mapping[str, str], *, demo: bool = False) -> Stack:
    """Decide what runs; `environ` may hold `BUCKY_*` settings, which win over the stack's own."""
    chosen = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    chosen.pop("BUCKY_HOME", None)
    store = None if "BUCKY_STORE_ENDPOINT" in chosen else own_store(home, ports)
    if "BUCKY_NATS_URL" not in chosen:
        chosen.setdefault("BUCKY_NATS_MONITOR_URL", f"http://{HOST}:{ports.nats_monitor}")
    env = {**_environment(home, ports), **(store.environment if store else {}), **chosen}
    settings = Settings.load(env)
    return Stack(
        home,
        ports,
        settings,
        (*_broker(home, ports, chosen), *((store.program,) if store else ())),
        (*_services(home, ports, env, settings), *(_destination(home, ports) if demo else ())),
    )


def _environment(home: Home, ports: Ports) -> dict[str, str]:
    return {
        "BUCKY_HOME": str(home.path),
        "BUCKY_SECRETS_DIR": str(home.secrets),
        "BUCKY_DESTINATION_SECRETS_DIR": str(home.destination_secrets),
        "BUCKY_STORE_ENDPOINT": f"http://{HOST}:{ports.s3}",
        "BUCKY_NATS_URL": f"nats://{HOST}:{ports.nats}",
        "BUCKY_NATS_USER": NATS_USER,
        "BUCKY_EDGE_LISTENERS": json.dumps([{"aet": "BUCKY", "host": HOST, "port": ports.dicom}]),
        "BUCKY_EDGE_HTTP_PORT": str(ports.edge_health),
        "BUCKY_EDGE_HEALTH_URL": f"http://{HOST}:{ports.edge_health}/health",
        "BUCKY_SPOOL_DIR": str(home.spool),
        "BUCKY_SPOOL_SLOTS": SLOTS,
        "BUCKY_LOCAL_CACHE_DIR": str(home.local_cache),
        "BUCKY_CROSSWALK_DIR": str(home.crosswalks),
        "BUCKY_GATEWAY_URL": f"http://{HOST}:{ports.provider}",
        "BUCKY_CONNECTOR_HTTP_PORT": str(ports.connector),
        "BUCKY_CONNECTOR_HEALTH_URL": f"http://{HOST}:{ports.connector}/health",
        "BUCKY_KEEPER_HTTP_PORT": str(ports.keeper),
        "BUCKY_KEEPER_HEALTH_URL": f"http://{HOST}:{ports.keeper}/health",
        "BUCKY_PROVIDER_PORT": str(ports.provider),
        "BUCKY_PROVIDER_DIR": str(home.provider),
        "BUCKY_ADMIN_PORT": str(ports.admin),
        "BUCKY_PUBLIC_URL": f"https://localhost:{ports.https}",
        "BUCKY_TRAEFIK_HEALTH_URL": ping_url(_gateway_ports(ports)),
    }


def _broker(home: Home, ports: Ports, chosen: Mapping[str, str]) -> list[Program]:
    if "BUCKY_NATS_URL" in chosen:
        return []
    return [nats_server(home.nats, ports.nats, ports.nats_monitor, NATS_USER, home.secret("nats_password"))]


def _services(home: Home, ports: Ports, env: Mapping[str, str], settings: Settings) -> list[Program]:
    upstreams = Upstreams(
        provider=settings.gateway_url,
        admin=f"http://{HOST}:{settings.admin_port}",
        s3=settings.store_endpoint,
        console=f"http://{HOST}:{ports.s3_console}",
    )
    return [
        # It lets functions finish what they are doing, for half a minute.
        replace(
            _python("provider", "local_provider", env, f"http://{HOST}:{ports.provider}", "/healthz"),
            stop_seconds=35,
        ),
        _python("admin-api", "admin_api", env, f"http://{HOST}:{ports.admin}", "/health", any_status=True),
        _python("connector", "jetstream_connector", env, f"http://{HOST}:{ports.connector}", "/health"),
        _python("keeper", "keeper", env, f"http://{HOST}:{ports.keeper}", "/health"),
        Program(
            name="edge",
            argv=(sys.executable, "-m", "edge_scp"),
            env=env,
            ready=tcp_open(HOST, settings.edge_listeners[0].port),
            address=", ".join(f"{entry.aet}@{entry.host}:{entry.port}" for entry in settings.edge_listeners),
        ),
        traefik(_gateway_ports(ports), upstreams, ensure_certificates(home.tls)),
    ]


def _gateway_ports(ports: Ports) -> GatewayPorts:
    return GatewayPorts(
        http=ports.http,
        https=ports.https,
        s3=ports.s3_https,
        console=ports.console_https,
        health=ports.traefik_ping,
    )


def _destination(home: Home, ports: Ports) -> list[Program]:
    return [
        Program(
            name="demo-destination",
            argv=(
                *(sys.executable, "-m", "local_stack.destination"),
                *("--aet", "DEMO", "--port", str(ports.destination), "--dir", str(home.destination)),
            ),
            ready=tcp_open(HOST, ports.destination),
            address=f"DEMO@{HOST}:{ports.destination}",
        )
    ]


def _python(
    name: str, module: str, env: Mapping[str, str], url: str, health: str, *, any_status: bool = False
) -> Program:
    return Program(
        name=name,
        argv=(sys.executable, "-m", module),
        env=env,
        ready=http_ok(url + health, any_status=any_status),
        address=url,
    )


def stack_file() -> Path:
    """Return the stack file whose functions are deployed."""
    return REPOSITORY / "openfaas" / "stack.yaml"
