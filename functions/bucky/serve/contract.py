"""The function contract: what a function answers to a batch of CloudEvents.

Request: `POST`, `application/cloudevents-batch+json`. Response 200:

    {"batchItemFailures": [{"itemIdentifier", "retryable", "retryAfter", "attempted", "reason"}],
     "events": [CloudEvent…]}

`retryAfter` and `attempted` may be left out. A missing key, an identifier that was not in the batch, or
invalid JSON fails the whole batch.
"""

from collections.abc import Collection
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from bucky.cloudevents import CloudEvent


class ItemFailure(BaseModel):
    """One event of the batch that was not processed; `retry_after` is in seconds.

    `attempted` is false when it was not even tried, because what it needs is away, closed or busy.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)
    item_identifier: str = Field(alias="itemIdentifier")
    retryable: bool
    retry_after: float | None = Field(default=None, alias="retryAfter", ge=0)
    attempted: bool = True
    reason: str


class BatchResult(BaseModel):
    """A function's answer: what failed, and what happened because of the rest."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)
    failures: tuple[ItemFailure, ...] = Field(alias="batchItemFailures")
    events: tuple[CloudEvent, ...]

    @classmethod
    def parse(cls, body: bytes, identifiers: Collection[str]) -> Self:
        """Read an answer to a batch with these event ids; raise `ValueError` when it breaks the contract."""
        result = cls.model_validate_json(body)
        unknown = {failure.item_identifier for failure in result.failures} - set(identifiers)
        if unknown:
            raise ValueError(f"the answer names {len(unknown)} item(s) that were not in the batch")
        return result

    def to_json(self) -> bytes:
        """Return the response body."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()
