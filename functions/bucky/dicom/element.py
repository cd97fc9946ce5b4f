"""What a walk over a data set finds: elements, where they stand, and where the pixels begin."""

from typing import NamedTuple


class Element(NamedTuple):
    """One top-level data element; `value` is undecoded, and for a sequence its items. A VR not known is UN here."""

    tag: int
    vr: str | None
    value: bytes
    implicit: bool


class Span(NamedTuple):
    """Where one top-level data element stands: from `start` to `end`, its value within that."""

    tag: int
    vr: str | None
    start: int
    value_at: int
    value_end: int
    end: int
    implicit: bool


class PixelElement(NamedTuple):
    """Where the value of the pixels begins, and how many bytes it has; None when it is in fragments."""

    tag: int
    value_at: int
    length: int | None
