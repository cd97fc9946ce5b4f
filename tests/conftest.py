"""Real servers for the tests, and a report of which ones were used.

`TEST_STORE=minio`, `TEST_STORE=versitygw` and `TEST_INDEX=postgres` (set by `make test-minio` and the like) run
the same tests against those servers; the default is SeaweedFS and SQLite, and for a whole stack the store it brings.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from pynetdicom.transport import AssociationSocket

from bucky.index import Index
from bucky.objects import S3ObjectStore
from bucky.ports import free_port
from bucky.settings import Settings
from local_stack import servers
from local_stack.own_store import GATEWAY
from local_stack.process import Program, start, stop, wait_ready
from local_stack.servers import built

PEERS = {
    "dcmtk": ("storescu", "dcmsend", "echoscu", "storescp"),
    "orthanc": ("Orthanc",),
    "faas-cli": ("faas-cli",),
}
_used: set[str] = set()
_missing: set[str] = set()

# The object stores that TEST_STORE may name; SeaweedFS, the default, needs more ports than these.
STORES = {"minio": servers.minio, "versitygw": servers.versitygw}
# The one that `bucky up` brings for a new home.
OWN_STORE = GATEWAY if built(GATEWAY) else "seaweedfs"

# The fixtures through which tests reach the server that TEST_STORE or TEST_INDEX replaces.
STORE_FIXTURES = {"store", "store_settings", "store_server", "servers_under_test", "world"}
INDEX_FIXTURES = {"index", "index_url", "servers_under_test"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what touches the server that is replaced, if one is; skip what needs a peer that is not there."""
    wanted = (STORE_FIXTURES if "TEST_STORE" in os.environ else set()) | (
        INDEX_FIXTURES if "TEST_INDEX" in os.environ else set()
    )
    if wanted:
        untouched = [item for item in items if not wanted & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=untouched)
        items[:] = [item for item in items if item not in untouched]
    for item in items:
        for marker in item.iter_markers("peer"):
            name = marker.args[0]
            if all(built(tool) for tool in PEERS[name]):
                _used.add(name)
            else:
                _missing.add(name)
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed: run `make test-peers`"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which real servers and peers took part, and which were missing."""
    terminalreporter.section("real servers")
    terminalreporter.write_line("used: " + (", ".join(sorted(_used)) or "none"))
    for name in sorted(_missing):
        terminalreporter.write_line(
            f"!!! LEFT OUT: {name} is not installed, so its tests did not run: `make test-peers` installs it",
            red=True,
            bold=True,
        )


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
    _used.add("nats-server")
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
    _used.add(name)
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


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[tuple[Running, Settings]]:
    """A fresh nats-server that the test may kill and start again."""
    server, settings = make_nats(tmp_path)
    yield server, settings
    server.stop()


@pytest.fixture
def nats_settings(nats_server: tuple[Running, Settings]) -> Settings:
    """Settings that reach a fresh nats-server."""
    return nats_server[1]


@pytest.fixture(scope="session")
def _shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    server, settings = make_store(tmp_path_factory.mktemp("store"))
    yield settings
    server.stop()


@pytest.fixture
def store_server(tmp_path: Path) -> Iterator[tuple[Running, Settings]]:
    """A fresh S3 server that the test may kill and start again; slower than `store_settings`."""
    server, settings = make_store(tmp_path)
    yield server, settings
    server.stop()


@pytest.fixture
def store_settings(_shared_store: Settings) -> Iterator[Settings]:
    """Settings that reach a fresh, existing bucket on the session's S3 server."""
    settings = _shared_store.model_copy(update={"store_bucket": f"bucky-{secrets.token_hex(6)}"})
    S3ObjectStore(settings).ensure_bucket()
    yield settings
    _remove_bucket(settings)


def _remove_bucket(settings: Settings) -> None:
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

    def fresh_database(self) -> str:
        """Make an empty database and return the index URL of it."""
        name = f"index_{secrets.token_hex(6)}"
        with psycopg.connect(f"postgresql://{self.address}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{self.address}/{name}"


@pytest.fixture(scope="session")
def _postgresql() -> Iterator[PostgreSql]:
    # Not under pytest's own folder: only root may enter that, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="bucky-postgresql-"))
    folder.chmod(0o755)
    password, port = secrets.token_hex(8), free_port()
    server = run(servers.postgresql(folder / "data", port, password), folder)
    _used.add("postgresql")
    yield PostgreSql(server, f"bucky:{password}@127.0.0.1:{port}")
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def index_url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh, empty index database."""
    if os.environ.get("TEST_INDEX") != "postgres":
        _used.add("sqlite")
        return f"sqlite:///{tmp_path / 'index.db'}"
    postgresql: PostgreSql = request.getfixturevalue("_postgresql")
    return postgresql.fresh_database()


@pytest.fixture
def index(index_url: str) -> Iterator[Index]:
    """An empty index."""
    opened = Index.open(index_url)
    opened.migrate()
    yield opened
    opened.close()


@dataclass
class ServersUnderTest:
    """The servers a whole stack is to use instead of its own, and the `BUCKY_*` variables that say so."""

    environ: dict[str, str]
    running: dict[str, Running]


@pytest.fixture(scope="module")
def servers_under_test(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ServersUnderTest]:
    """MinIO or PostgreSQL where this run is about them; nothing where the stack brings its own."""
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
        _used.add(OWN_STORE)
    if os.environ.get("TEST_INDEX") == "postgres":
        postgresql: PostgreSql = request.getfixturevalue("_postgresql")
        under_test.running["postgresql"] = postgresql.server
        under_test.environ["BUCKY_INDEX_URL"] = postgresql.fresh_database()
    else:
        _used.add("sqlite")
    _used.update(("nats-server", "traefik"))
    yield under_test
    if "object-store" in under_test.running:
        under_test.running["object-store"].stop()


@pytest.fixture
def requestors_close_their_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close what pynetdicom's requestor leaves open when its peer closed first."""

    def shutdown(self: AssociationSocket) -> None:
        assert self.socket is not None
        self.socket.close()

    monkeypatch.setattr(AssociationSocket, "_shutdown_socket", shutdown)
