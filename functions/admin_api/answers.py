"""The shapes that more than one route answers with."""

from typing import Generic, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item")
Cursor = TypeVar("Cursor")


class Page(BaseModel, Generic[Item, Cursor]):
    """Part of a list; `next` is what to ask for to go on, or null at the end."""

    items: list[Item]
    next: Cursor | None


class Dismissed(BaseModel):
    """What is not to be sent any more, and what was not dismissed and why."""

    dismissed: list[str] = Field(description="Sequences of dead letters, or ids of deliveries that have none.")
    failed: dict[str, str] = Field(description="The reason for each that was not dismissed.")
    next: int | None = Field(None, description="Older ones may match: ask again with this as `before`.")


class Redriven(BaseModel):
    """What was sent again, and what was not and why."""

    redriven: list[str] = Field(description="Sequences of dead letters, or ids of deliveries.")
    failed: dict[str, str] = Field(description="The reason for each that was not sent again.")
    next: int | None = Field(None, description="Older ones may match: ask again with this as `before`.")
