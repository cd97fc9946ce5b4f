"""Migrations and outages, the same on SQLite and PostgreSQL."""

import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from bucky.cloudevents import utc_now
from bucky.errors import IndexUnavailable, SettingsError
from bucky.index import Counts, Index, StudyQuery, migrate
from bucky.index.column_types import metadata
from bucky.index.database import Database
from bucky.runtime.ports import free_port
from tests.support.index.rows import digest, header, indexed

pytestmark = pytest.mark.index

MIGRATE = """
import sys
from bucky.index import Index
index = Index.open(sys.argv[1])
sys.stdin.readline()
index.migrate()
index.check()
print(index.counts().instances)
"""


# What version 0023 added to deliveries.
OF_COMMITMENTS = (
    "crosswalks",
    "waiting_since",
    "due_at",
    "sends",
    "commitment",
    "commitment_uid",
    "commitment_asked_at",
    "commitment_asks",
)


def test_many_processes_may_migrate_at_once(empty_index_url: str) -> None:
    """Six processes that start on an empty database all come up, on one set of tables."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", MIGRATE, empty_index_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (0, "0\n"), err


def test_migrations_make_the_declared_tables(empty_index_url: str) -> None:
    """The tables a migration makes are those `schema.py` declares, column by column and index by index."""
    index = Index.open(empty_index_url)
    index.migrate()
    index.close()
    engine = create_engine(empty_index_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_migration_is_named_for_its_revision() -> None:
    """What a program needs is told by the files' names, without Alembic: each is its revision's, in a single line."""
    scripts = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    found = list(scripts.walk_revisions())
    assert [Path(one.path).name[1:5] for one in found] == [one.revision for one in found]
    assert found[0].revision == scripts.get_current_head() == max(one.revision for one in found)


def test_migrating_keeps_what_is_there(empty_index_url: str) -> None:
    """A restart migrates again, and finds everything as it was."""
    index = Index.open(empty_index_url)
    index.migrate()
    index.upsert_instances([indexed("a")])
    index.migrate()
    assert index.counts() == Counts(1, 1, 1, 0)
    index.close()


def test_an_index_without_tables_is_not_ready(empty_index_url: str) -> None:
    """Readiness says so, instead of the first instance failing."""
    index = Index.open(empty_index_url)
    with pytest.raises(IndexUnavailable):
        index.check()
    index.migrate()
    index.check()
    index.close()


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://u@h/d", "oracle://x"])
def test_an_unusable_url_is_named_without_its_password(url: str) -> None:
    """A wrong setting stops the start with a sentence that names it."""
    with pytest.raises(SettingsError, match="BUCKY_INDEX_URL"):
        Index.open(url)


def test_a_database_that_is_away_is_retriable(tmp_path: Path) -> None:
    """Nobody listening, or an unreadable file, is trouble that passes; it never blames the instance."""
    away = Index.open(f"postgresql+psycopg://bucky:secret@127.0.0.1:{free_port()}/index")
    with pytest.raises(IndexUnavailable) as raised:
        away.counts()
    assert "secret" not in str(raised.value)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(IndexUnavailable):
        Index.open(f"sqlite:///{damaged}").counts()


def test_a_killed_connection_heals(empty_index_url: str) -> None:
    """After the server ends every connection, as on its restart, the next call works, or the one after it."""
    if empty_index_url.startswith("sqlite"):
        pytest.skip("SQLite has no server")
    index = Index.open(empty_index_url)
    index.migrate()
    index.upsert_instances([indexed("a")])
    engine = create_engine(empty_index_url)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()
    index.upsert_instances([indexed("b")])
    assert index.counts().instances == 2
    index.close()


def test_the_index_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """The SQLite file and its log hold patient data."""
    (tmp_path / "new").mkdir()
    index = Index.open(f"sqlite:///{tmp_path / 'new' / 'index.db'}")
    with pytest.raises(IndexUnavailable):
        index.check()  # which makes SQLite create the file
    index.migrate()
    index.upsert_instances([indexed("a")])
    files = list((tmp_path / "new").glob("index.db*"))
    assert {file.name for file in files} >= {"index.db", "index.db-wal"}
    assert all(file.stat().st_mode & 0o077 == 0 for file in files if not file.name.endswith(".lock"))
    index.close()


def test_closing_closes_what_a_thread_still_uses(empty_index_url: str) -> None:
    """A connection in use when the index is closed is closed when it comes back, not leaked."""
    database = Database(empty_index_url)
    used: list[Any] = []

    def work(connection: Connection) -> None:
        used.append(connection.connection.driver_connection)
        database.close()

    database.read(work)
    with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError)):
        used[0].execute("SELECT 1")


def test_what_was_there_before_counts_as_routed(empty_index_url: str) -> None:
    """Bringing an index up to date makes no reconciling send anything again, and patients are found as before."""
    index = Index.open(empty_index_url)
    index.migrate()
    index.upsert_instances([indexed("a", header(PatientID="P1"))])
    engine = create_engine(empty_index_url)
    with engine.begin() as connection:
        for table in ("delivery_steps", "routings", "arrivals", "revisions", "reindexings", "reindexed_studies"):
            connection.execute(text(f"DROP TABLE {table}"))
        for table in ("delivery_members", "delivery_results", "decisions"):
            connection.execute(text(f"DROP TABLE {table}"))
        for column in ("unit", "unit_sha256", "unit_instances", "unanswered_sha256"):
            connection.execute(text(f"ALTER TABLE deliveries DROP COLUMN {column}"))
        for column in ("stored_at", "processed", "decision", "examined_version"):
            connection.execute(text(f"ALTER TABLE instances DROP COLUMN {column}"))
        for name in ("due_at", "commitment_uid"):
            connection.execute(text(f"DROP INDEX deliveries_{name}"))
        for name in OF_COMMITMENTS:
            connection.execute(text(f"ALTER TABLE deliveries DROP COLUMN {name}"))
        connection.execute(text("DROP INDEX studies_several_patients"))
        connection.execute(text("DROP TABLE study_patients"))
        connection.execute(text("ALTER TABLE studies DROP COLUMN patient_count"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0020'"))
    engine.dispose()
    index.migrate()
    (study,) = index.search_studies(StudyQuery(patient_id="P1"))
    assert (study.patient_count, [one.patient_id for one in study.patients]) == (1, ["P1"])
    assert index.not_routed(utc_now() + timedelta(seconds=60)) == []
    index.upsert_instances([indexed("b")])
    assert [row.sha256 for row in index.not_routed(utc_now() + timedelta(seconds=60))] == [digest("b")]
    index.close()
