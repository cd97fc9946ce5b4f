"""The engine behind the index: connections, transactions, and what differs between SQLite and PostgreSQL."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bucky.errors import IndexUnavailable, SettingsError

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

    Insert = sqlite.Insert | postgresql.Insert

P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS = 15.0
STATEMENT_SECONDS = 30
"""So long PostgreSQL may work on a statement."""
CONFLICT_RETRIES = 8
_SERIALIZATION_FAILURE = "40001"
_DEADLOCK_DETECTED = "40P01"
_WRITE = "bucky_write"


class Database:
    """Runs work in transactions; raises `IndexUnavailable` when the database does not answer."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self._closed = False
        event.listen(self.engine, "checkin", self._given_back)
        self._writing = self.engine.execution_options(**{_WRITE: True})

    def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns, given a connection in a transaction that only reads."""
        with _translating(), self.engine.begin() as connection:
            return work(connection, *args, **kwargs)

    def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in one transaction; once more, from its start, when PostgreSQL asks for it."""
        for attempt in range(CONFLICT_RETRIES):
            try:
                with _translating(), self._writing.begin() as connection:
                    return work(connection, *args, **kwargs)
            except _AskedToRetry:
                time.sleep(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311
        raise IndexUnavailable("the index database is too busy: transactions kept colliding")

    def prepare_sqlite_file(self) -> None:
        """Turn the file to write-ahead logging, which it keeps; the caller sees that nobody else does so now."""
        with _translating(), self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA journal_mode=WAL")

    def close(self) -> None:
        """Close every connection; one that a thread still uses, when it is given back."""
        self._closed = True
        self.engine.dispose()

    def _given_back(self, connection: Any, _record: Any) -> None:
        # The pool it returns to was disposed of, and would drop it open.
        if self._closed and connection is not None:
            connection.close()


def insert_into(connection: Connection, table: Table) -> "Insert":
    """Return the dialect's INSERT, which knows ON CONFLICT."""
    return insert_in(connection.dialect.name, table)


def insert_in(dialect: str, table: Table) -> "Insert":
    """Return a dialect's INSERT: the one place that chooses by dialect."""
    if dialect == "sqlite":
        return sqlite_insert(table)
    # Imported here: with all its drivers it takes a fifth of a second.
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

    return postgresql_insert(table)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError):
        raise SettingsError("BUCKY_INDEX_URL is not a database URL") from None
    if backend == "postgresql":
        return _postgresql_engine(parsed.set(drivername="postgresql+psycopg"))
    if backend == "sqlite" and parsed.database and parsed.database != ":memory:":
        return _sqlite_engine(parsed)
    raise SettingsError("BUCKY_INDEX_URL must be sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE")


def _postgresql_engine(url: URL) -> Engine:
    # Loads psycopg, which takes as long as all of SQLAlchemy: an index in SQLite does without.
    from bucky.index.patience import PatientConnection

    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_timeout=10,
        hide_parameters=True,  # exceptions must not print patient values
        connect_args={
            "connect_timeout": 5,
            "application_name": "bucky",
            "options": (
                f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout=15s "
                "-c idle_in_transaction_session_timeout=60s"
            ),
            # Of a machine that is gone the system learns in seconds, instead of hours.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        },
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        return PatientConnection.connect(*arguments, **options)

    return engine


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, pool_timeout=10, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock first: a reader that turns writer later could not wait for it.
        writes = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class _AskedToRetry(IndexUnavailable):
    """PostgreSQL chose this transaction as the one to try again."""


@contextmanager
def _translating() -> Iterator[None]:
    """Turn SQLAlchemy's exceptions into Bucky's; a programming mistake stays what it is."""
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in {_SERIALIZATION_FAILURE, _DEADLOCK_DETECTED}:
            raise _AskedToRetry("the index database asked for the transaction to be tried again") from error
        transient = isinstance(error, OperationalError | InterfaceError | InternalError)
        if transient or error.connection_invalidated or type(error) is DatabaseError:
            raise IndexUnavailable(f"the index database did not answer: {_kind(error)}") from error
        raise
    except PoolTimeout as error:
        raise IndexUnavailable("the index database is too busy: no connection was free") from error


def _kind(error: DBAPIError) -> str:
    """Return the driver's error without the values it may quote."""
    first_line = str(error.orig).strip().splitlines()[:1]
    return f"{type(error.orig).__name__}: {first_line[0] if first_line else ''}"[:200]
