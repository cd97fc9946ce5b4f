"""The types of the index's columns, and what all its tables belong to."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DateTime,
    MetaData,
    Text,
    TypeDecorator,
)
from sqlalchemy.engine import Dialect

from bucky.events import Processing
from bucky.routing.provenance import read_processed, written


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone, kept in UTC; SQLite has no zones, so it gets the naive UTC time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone must not enter the index")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return an aware time."""
        if value is None:
            return None
        stored: datetime = value
        return stored.replace(tzinfo=UTC) if dialect.name == "sqlite" else stored.astimezone(UTC)


class ProcessedBy(TypeDecorator[tuple[Processing, ...]]):
    """The functions that an instance came out of, as JSON; nothing for what was received."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[Processing, ...] | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Convert to JSON."""
        return written(value) if value else None

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Processing, ...]:  # noqa: ARG002
        """Return the functions."""
        return read_processed(value or "")


metadata = MetaData()
