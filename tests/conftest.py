"""The fixtures that all tests share, and a report of which real servers took part.

`TEST_STORE=minio`, `TEST_STORE=versitygw` and `TEST_INDEX=postgres` (set by `make test-minio` and the like) run
the same tests against those servers; the default is SeaweedFS and SQLite, and for a whole stack the store it brings.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pynetdicom.transport import AssociationSocket
from xdist.remote import Producer

from bucky.index import Index
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from local_stack import servers
from local_stack.servers import built
from tests.support import times
from tests.support.faults.report import TABLES, note_rows
from tests.support.servers import (
    MISSING,
    PEERS,
    USED,
    PostgreSql,
    Running,
    ServersUnderTest,
    make_nats,
    make_store,
    remove_bucket,
    run,
    serving_what_is_under_test,
)
from tests.support.side_by_side import Scheduling, longest_first

# A busy machine is slow, not wrong.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

SERVER_MARKERS = {"TEST_STORE": "store", "TEST_INDEX": "index"}
"""The marker of tests whose subject is the server that a variable replaces."""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Deal tests to workers by what they share."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what is about a replaced server; skip what needs a missing peer."""
    wanted = [marker for variable, marker in SERVER_MARKERS.items() if variable in os.environ]
    if wanted:
        others = [item for item in items if not any(item.get_closest_marker(marker) for marker in wanted)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
    for item in items:
        for marker in item.iter_markers("peer"):
            name = marker.args[0]
            if all(built(tool) for tool in PEERS[name]):
                USED.add(name)
            else:
                MISSING.add(name)
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed: run `make test-peers`"))
    if hasattr(config, "workerinput"):
        longest_first(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this worker what took part, if this is one."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output.update(used=sorted(USED), missing=sorted(MISSING), tables=session.config.stash.get(TABLES, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Gather what a worker told."""
    told = getattr(node, "workeroutput", {})
    USED.update(told.get("used", ()))
    MISSING.update(told.get("missing", ()))
    for name, rows in told.get("tables", {}).items():
        note_rows(node.config, name, rows)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the table of times."""
    parser.addoption("--times", action="store_true", help="show where the time went, by file")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note the processor time of each phase of a test."""
    report = yield
    times.note(item, report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which real servers and peers took part, and which were missing; and where the time went, if asked to."""
    if config.getoption("--times"):
        reports = [report for kind in terminalreporter.stats.values() for report in kind]
        terminalreporter.section("times, in seconds")
        for line in times.lines(times.by_file(each for each in reports if isinstance(each, pytest.TestReport))):
            terminalreporter.write_line(line)
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


@pytest.fixture(scope="session")
def _index_template(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path | str:
    """An index that has its tables and nothing else: a SQLite file, or the name of a PostgreSQL database."""
    if os.environ.get("TEST_INDEX") == "postgres":
        postgresql: PostgreSql = request.getfixturevalue("_postgresql")
        url = postgresql.fresh_database()
        made: Path | str = url.rpartition("/")[2]
    else:
        made = tmp_path_factory.mktemp("index") / "index.db"
        url = f"sqlite:///{made}"
    index = Index.open(url)
    index.migrate()
    index.close()
    return made


@pytest.fixture
def empty_index_url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a database that has no tables yet."""
    if os.environ.get("TEST_INDEX") == "postgres":
        postgresql: PostgreSql = request.getfixturevalue("_postgresql")
        return postgresql.fresh_database()
    USED.add("sqlite")
    return f"sqlite:///{tmp_path / 'index.db'}"


@pytest.fixture
def index_url(_index_template: Path | str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh index that has its tables."""
    if isinstance(_index_template, str):
        postgresql: PostgreSql = request.getfixturevalue("_postgresql")
        return postgresql.fresh_database(_index_template)
    USED.add("sqlite")
    shutil.copy(_index_template, tmp_path / "index.db")
    return f"sqlite:///{tmp_path / 'index.db'}"


@pytest.fixture
def index(index_url: str) -> Iterator[Index]:
    """An index that has its tables and nothing else."""
    opened = Index.open(index_url)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def servers_under_test(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ServersUnderTest]:
    """MinIO or PostgreSQL where this run is about them; nothing where the stack brings its own."""
    with serving_what_is_under_test(tmp_path_factory, request) as under_test:
        yield under_test


@pytest.fixture
def requestors_close_their_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close what pynetdicom's requestor leaves open when its peer closed first."""

    def shutdown(self: AssociationSocket) -> None:
        assert self.socket is not None
        self.socket.close()

    monkeypatch.setattr(AssociationSocket, "_shutdown_socket", shutdown)
