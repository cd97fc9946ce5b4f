"""Crosswalks: lookup tables that replace one value by another, from a CSV file or an SQL database.

The files stand in `BUCKY_CROSSWALK_DIR`: they hold patients' values or a database's password, so the routing
document only names them.
"""

import csv
import hashlib
import io
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bucky.errors import Permanent, Retriable
from bucky.text.names import NAME_PATTERN

if TYPE_CHECKING:
    from sqlalchemy import Engine

RETRY_SECONDS = 30.0
MAX_FILE_BYTES = 256 * 1024 * 1024
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
LookUp = Callable[[str, str], str | None]
"""From a crosswalk's name and a value to the value it has for it, or None."""
DIGEST_CHARACTERS = 12
QUERIED = "queried"
"""What stands for the version of a table that has none."""


class CrosswalkUnavailable(Retriable):
    """A crosswalk cannot be read now; the instance waits for it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, RETRY_SECONDS)


class _Crosswalk(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=NAME_PATTERN)


class CsvCrosswalk(_Crosswalk):
    """Two columns of a CSV file in UTF-8, which has a heading line."""

    type: Literal["csv"]
    file: FileName
    key: str = Field("key", max_length=100, description="Heading of the column that is looked in.")
    value: str = Field("value", max_length=100, description="Heading of the column that is taken.")


class SqlCrosswalk(_Crosswalk):
    """A query for one value; `url_file` holds the SQLAlchemy URL of a database, with its password."""

    type: Literal["sql"]
    url_file: FileName
    query: str = Field(max_length=4000, description="It has `:value` where the value looked for belongs.")

    @model_validator(mode="after")
    def _asks_for_the_value(self) -> Self:
        if ":value" not in self.query:
            raise ValueError("the query has no :value, so it would find the same for everybody")
        return self


Crosswalk = Annotated[CsvCrosswalk | SqlCrosswalk, Field(discriminator="type")]


class _Table(NamedTuple):
    """A CSV file as it was read; `version` is the beginning of its SHA-256, as `sha256sum` prints it."""

    read_at: tuple[int, int]
    version: str
    values: dict[str, str]


class Crosswalks:
    """Looks values up; a CSV file is read again when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tables: dict[CsvCrosswalk, _Table] = {}
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def look_up(self, crosswalk: Crosswalk, value: str) -> str | None:
        """Return what the crosswalk has for a value, or None; raise `CrosswalkUnavailable`, or `Permanent`."""
        return self._found(crosswalk, value)[0]

    def among(self, defined: Iterable[Crosswalk], versions: dict[str, str] | None = None) -> LookUp:
        """Return what looks a value up in one of these crosswalks, by its name; `versions` gets that of each used."""
        by_name = {crosswalk.name: crosswalk for crosswalk in defined}

        def look_up(table: str, value: str) -> str | None:
            found, version = self._found(by_name[table], value)
            if versions is not None:
                versions[table] = version
            return found

        return look_up

    def close(self) -> None:
        """Close every connection."""
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()

    def _found(self, crosswalk: Crosswalk, value: str) -> tuple[str | None, str]:
        """Return what a crosswalk has for a value, and the version of the table it was found in."""
        if isinstance(crosswalk, CsvCrosswalk):
            table = self._table(crosswalk)
            return table.values.get(value), table.version
        return self._queried(crosswalk, value), QUERIED

    def _table(self, crosswalk: CsvCrosswalk) -> _Table:
        path = self._folder / crosswalk.file
        with self._lock, _Translating(crosswalk):
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size)
            known = self._tables.get(crosswalk)
            if known is None or known.read_at != version:
                if status.st_size > MAX_FILE_BYTES:
                    raise CrosswalkUnavailable(f"the crosswalk {crosswalk.name!r} is too large for CSV: use SQL")
                content = path.read_bytes()
                digest = hashlib.sha256(content).hexdigest()[:DIGEST_CHARACTERS]
                known = self._tables[crosswalk] = _Table(version, digest, _read(content, crosswalk))
        return known

    def _queried(self, crosswalk: SqlCrosswalk, value: str) -> str | None:
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        with _Translating(crosswalk):
            url = (self._folder / crosswalk.url_file).read_text(encoding="utf-8").strip()
        try:
            with self._engine(url).connect() as connection:
                rows = connection.execute(text(crosswalk.query), {"value": value}).fetchmany(2)
        except (SQLAlchemyError, ImportError) as error:
            # Not its message: it may quote the value.
            raise CrosswalkUnavailable(
                f"the database of crosswalk {crosswalk.name!r} did not answer ({type(error).__name__}): the "
                "instance waits, put right its URL, its driver or the query"
            ) from None
        if len(rows) > 1:
            raise Permanent(
                f"the crosswalk {crosswalk.name!r} has more than one entry for a value: the instance is not sent, "
                "make the query answer one row and redrive"
            )
        return None if not rows or rows[0][0] is None else str(rows[0][0])

    def _engine(self, url: str) -> "Engine":
        from sqlalchemy import create_engine

        with self._lock:
            if url not in self._engines:
                self._engines[url] = create_engine(url, pool_pre_ping=True, pool_timeout=10, hide_parameters=True)
            return self._engines[url]


class _Translating:
    """Turn what reading a file raises into Bucky's, without the file's content."""

    def __init__(self, crosswalk: Crosswalk) -> None:
        self._name = crosswalk.name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError | UnicodeError | csv.Error):
            raise CrosswalkUnavailable(
                f"the file of crosswalk {self._name!r} cannot be read ({type(error).__name__}): the instance waits, "
                "put the file into BUCKY_CROSSWALK_DIR"
            ) from None


def _read(content: bytes, crosswalk: CsvCrosswalk) -> dict[str, str]:
    table: dict[str, str] = {}
    with io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if not {crosswalk.key, crosswalk.value} <= set(rows.fieldnames or ()):
            raise CrosswalkUnavailable(
                f"the file of crosswalk {crosswalk.name!r} has no columns {crosswalk.key!r} and {crosswalk.value!r}: "
                "the instance waits, correct the heading line"
            )
        # Columns that nobody gave a heading are in no question; spreadsheets leave some behind the last.
        headings = [heading for heading in rows.fieldnames or () if heading]
        twice = next((one for number, one in enumerate(headings) if one in headings[:number]), None)
        if twice is not None:
            raise CrosswalkUnavailable(
                f"two columns of the file of crosswalk {crosswalk.name!r} have the heading {twice[:100]!r}, and only "
                "one of them would count: the instance waits, correct the heading line"
            )
        for row in rows:
            key, value = (row[crosswalk.key] or "").strip(), (row[crosswalk.value] or "").strip()
            if key and table.setdefault(key, value) != value:
                raise CrosswalkUnavailable(
                    f"line {rows.line_num} of crosswalk {crosswalk.name!r} contradicts an earlier one: the instance "
                    "waits, remove one of them"
                )
    return table
