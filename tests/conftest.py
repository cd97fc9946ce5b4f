"""The fixtures that all tests share, and a report of which real servers took part.

`TEST_STORE=minio`, `TEST_STORE=versitygw` and `TEST_INDEX=postgres` (set by `make test-minio` and the like) run
the same tests against those servers; the default is SeaweedFS and SQLite, and for a whole stack the store it brings.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom.transport import AssociationSocket

from bucky.index import Index
from bucky.objects import S3ObjectStore
from bucky.ports import free_port
from bucky.settings import Settings
from local_stack import servers
from local_stack.servers import built
from tests.support.servers import (
    MISSING,
    OWN_STORE,
    PEERS,
    USED,
    PostgreSql,
    Running,
    ServersUnderTest,
    make_nats,
    make_store,
    remove_bucket,
    run,
)

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
                USED.add(name)
            else:
                MISSING.add(name)
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed: run `make test-peers`"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which real servers and peers took part, and which were missing."""
    terminalreporter.section("real servers")
    terminalreporter.write_line("used: " + (", ".join(sorted(USED)) or "none"))
    for name in sorted(MISSING):
        terminalreporter.write_line(
            f"!!! LEFT OUT: {name} is not installed, so its tests did not run: `make test-peers` installs it",
            red=True,
            bold=True,
        )


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
    remove_bucket(settings)


@pytest.fixture(scope="session")
def _postgresql() -> Iterator[PostgreSql]:
    # Not under pytest's own folder: only root may enter that, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="bucky-postgresql-"))
    folder.chmod(0o755)
    password, port = secrets.token_hex(8), free_port()
    server = run(servers.postgresql(folder / "data", port, password), folder)
    USED.add("postgresql")
    yield PostgreSql(server, f"bucky:{password}@127.0.0.1:{port}")
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def index_url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh, empty index database."""
    if os.environ.get("TEST_INDEX") != "postgres":
        USED.add("sqlite")
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


@pytest.fixture
def requestors_close_their_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close what pynetdicom's requestor leaves open when its peer closed first."""

    def shutdown(self: AssociationSocket) -> None:
        assert self.socket is not None
        self.socket.close()

    monkeypatch.setattr(AssociationSocket, "_shutdown_socket", shutdown)
