"""Real servers for tests: started on free ports, killed and started again on the same data.

The default object store is SeaweedFS, and for a whole stack the one it brings; `TEST_STORE` names another.
"""

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from bucky.runtime.ports import free_port
from bucky.settings import Settings
from local_stack import servers
from local_stack.own_store import GATEWAY
from local_stack.process import Program, start, stop, wait_ready
from local_stack.servers import built

PEERS = {
    "dcmtk": ("storescu", "dcmsend", "echoscu", "storescp", "dcmconv"),
    "orthanc": ("Orthanc",),
    "faas-cli": ("faas-cli",),
}
USED: set[str] = set()
MISSING: set[str] = set()

# The object stores that TEST_STORE may name; SeaweedFS, the default, needs more ports than these.
STORES = {"minio": servers.minio, "versitygw": servers.versitygw}
# The one that `bucky up` brings for a new home.
OWN_STORE = GATEWAY if built(GATEWAY) else "seaweedfs"


@dataclass
class Running:
    """A server under test, which can be killed and started again on the same data."""

    program: Program
    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def log_file(self) -> Path:
        """The server's output."""
        return self.folder / f"{self.program.name}.log"

    def kill(self) -> None:
        """End it as a power failure of its machine would: at once."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end."""
        stop(self.process, 5)

    def start(self) -> None:
        """Start it again on the same data and wait until it is ready."""
        self.process = start(self.program, self.log_file)
        wait_ready(self.program, self.process, self.log_file)


def run(program: Program, folder: Path) -> Running:
    """Start a program for a test and wait until it is ready."""
    running = Running(program, folder, start(program, folder / f"{program.name}.log"))
    try:
        wait_ready(program, running.process, running.log_file)
    except BaseException:
        running.kill()
        raise
    return running


def make_nats(folder: Path) -> tuple[Running, Settings]:
    """Start a fresh nats-server in the folder; return it with settings that reach it."""
    port, password = free_port(), "n" + secrets.token_hex(8)
    server = run(servers.nats_server(folder / "nats", port, free_port(), "bucky", password), folder)
    USED.add("nats-server")
    settings = Settings.load(
        {
            "BUCKY_NATS_URL": f"nats://127.0.0.1:{port}",
            "BUCKY_NATS_USER": "bucky",
            "BUCKY_NATS_PASSWORD": password,
        }
    )
    return server, settings


def make_store(folder: Path, name: str | None = None) -> tuple[Running, Settings]:
    """Start a fresh S3 server in the folder, by default TEST_STORE's; return it with settings that reach it."""
    access, secret = "bucky" + secrets.token_hex(4), secrets.token_hex(16)
    port, console = free_port(), free_port()
    name = name or os.environ.get("TEST_STORE", "seaweedfs")
    if name == "seaweedfs":
        internal = tuple(free_port() for _ in range(8))
        program = servers.seaweedfs(folder / name, port, console, internal, access, secret)
    else:
        executable = built(name)
        if executable is None:
            pytest.fail(f"TEST_STORE={name}, but {name} is not built: run `make test-{name}`")
        program = STORES[name](executable, folder / name, port, console, access, secret)
    USED.add(name)
    settings = Settings.load(
        {
            "BUCKY_STORE_ENDPOINT": f"http://127.0.0.1:{port}",
            "BUCKY_STORE_ACCESS_KEY": access,
            "BUCKY_STORE_SECRET_KEY": secret,
            "BUCKY_STORE_BUCKET": "bucky",
            "BUCKY_STORE_BARRIER": "none",
        }
    )
    return run(program, folder), settings


def remove_bucket(settings: Settings) -> None:
    """Remove a bucket: SeaweedFS has volumes for some seventy."""
    name = settings.store_bucket
    keys = settings.store_access_key.get_secret_value(), settings.store_secret_key.get_secret_value()
    client = Minio(urlsplit(settings.store_endpoint).netloc, *keys, secure=False, region=settings.store_region)
    # What a test left to be uploaded may still arrive, or the bucket be gone already.
    with suppress(S3Error):
        objects = client.list_objects(name, recursive=True)
        list(client.remove_objects(name, (DeleteObject(str(each.object_name)) for each in objects)))
        client.remove_bucket(name)


@dataclass
class PostgreSql:
    """The session's PostgreSQL server; `address` is `user:password@host:port`."""

    server: Running
    address: str

    def fresh_database(self, template: str = "template1") -> str:
        """Make a database, empty or a copy of another, and return the index URL of it."""
        name = f"index_{secrets.token_hex(6)}"
        with psycopg.connect(f"postgresql://{self.address}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"postgresql+psycopg://{self.address}/{name}"


@dataclass
class ServersUnderTest:
    """The servers a whole stack is to use instead of its own, and the `BUCKY_*` variables that say so."""

    environ: dict[str, str]
    running: dict[str, Running]


@contextmanager
def serving_what_is_under_test(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ServersUnderTest]:
    """Run MinIO or PostgreSQL where this run is about them; nothing where the stack brings its own."""
    under_test = ServersUnderTest({}, {})
    if "TEST_STORE" in os.environ:
        server, settings = make_store(tmp_path_factory.mktemp("store"))
        under_test.running["object-store"] = server
        under_test.environ |= {
            "BUCKY_STORE_ENDPOINT": settings.store_endpoint,
            "BUCKY_STORE_ACCESS_KEY": settings.store_access_key.get_secret_value(),
            "BUCKY_STORE_SECRET_KEY": settings.store_secret_key.get_secret_value(),
            "BUCKY_STORE_BARRIER": "delay",
            "BUCKY_STORE_BARRIER_SECONDS": "2",
        }
    else:
        USED.add(OWN_STORE)
    if os.environ.get("TEST_INDEX") == "postgres":
        postgresql: PostgreSql = request.getfixturevalue("_postgresql")
        under_test.running["postgresql"] = postgresql.server
        under_test.environ["BUCKY_INDEX_URL"] = postgresql.fresh_database()
    else:
        USED.add("sqlite")
    USED.update(("nats-server", "traefik"))
    yield under_test
    if "object-store" in under_test.running:
        under_test.running["object-store"].stop()
