"""A PostgreSQL connection that waits for an answer for a limited time: a server that is gone never answers.

The server's own `statement_timeout` ends what takes too long there; this ends the waiting when nothing is heard at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

ANSWER_SECONDS = 40.0
"""Longer than any statement may take."""

RV = TypeVar("RV")
_limit: ContextVar[bool] = ContextVar("limit", default=True)


class PatientConnection(psycopg.Connection[Any]):
    """A connection that is closed, with `OperationalError`, when the server does not answer."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for an operation to complete."""
        if timeout is not None or not _limit.get():
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, ANSWER_SECONDS)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"nothing was heard for {ANSWER_SECONDS:.0f} s") from error


@contextmanager
def however_long() -> Iterator[None]:
    """Wait without a limit, as for a migration of millions of rows."""
    token = _limit.set(False)
    try:
        yield
    finally:
        _limit.reset(token)
