"""Bringing the tables up to date with Alembic, also when many processes start at once."""

import fcntl
import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from bucky.errors import IndexUnavailable
from bucky.index.database import Database
from bucky.index.patience import however_long

_ADVISORY_LOCK = 0x6275636B79  # "bucky"
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(database: Database) -> None:
    """Run the migrations that are missing, in one transaction."""
    file = _sqlite_file(database.engine)
    with _one_process_at_a_time(file) if file else nullcontext():
        if file:
            database.prepare_sqlite_file()
        with however_long():
            database.write(_upgrade)


def check(database: Database) -> None:
    """Raise `IndexUnavailable` unless the database answers and has had every migration."""
    current = database.read(_current_revision)
    if current != _head():
        raise IndexUnavailable(
            f"the index is at revision {current or 'none'}, this program needs {_head()}: migrate it first"
        )


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # An index over millions of rows takes longer than a statement of everyday work may.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    # Imported here: it takes a tenth of a second, which every function that starts would pay.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")


def _current_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


@functools.cache
def _head() -> str:
    """Return the last migration's revision, which its file is named for: v0023_commitment.py."""
    return max(path.name[1:5] for path in (_SCRIPTS / "versions").glob("v*_*.py"))


def _sqlite_file(engine: Engine) -> Path | None:
    return Path(str(engine.url.database)) if engine.dialect.name == "sqlite" else None


@contextmanager
def _one_process_at_a_time(file: Path) -> Iterator[None]:
    """Hold a lock file: turning a new SQLite file to WAL does not wait for others, it fails."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(file.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file.touch()
        if file.stat().st_size == 0:
            file.chmod(0o600)  # it will hold patient data
        yield
