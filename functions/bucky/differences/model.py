"""What a comparison of two instances found: plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

NAMED = 5


class PixelComparison(StrEnum):
    """How the pixel data of two instances compare."""

    SAME = "same"
    """Every sample of every frame is equal, decoded where the transfer syntaxes differ."""
    OTHER = "other"
    NONE = "none"
    """Neither has pixel data."""
    UNKNOWN = "unknown"
    """At least one could not be decoded."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute that differs: its path of tags, its name, and both values; None where it is absent.

    The values may name a patient: show them to who may see patients, never log them.
    """

    path: str
    name: str
    first: str | None
    second: str | None


@dataclass(frozen=True, slots=True)
class Differences:
    """How a second instance differs from a first. `problem` says what could not be compared, and why.

    What a change of transfer syntax alone changes (VRs, padding, the form of sequences, PhotometricInterpretation
    and PlanarConfiguration of equal pixels) is no difference of the header.
    """

    same_bytes: bool
    transfer_syntaxes: tuple[str, str]
    attributes: tuple[Attribute, ...]
    pixels: PixelComparison
    problem: str = ""

    @property
    def same_content(self) -> bool:
        """Whether both say the same, in whichever transfer syntax."""
        if self.same_bytes:
            return True
        return not self.attributes and not self.problem and self.pixels in {PixelComparison.SAME, PixelComparison.NONE}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Differences":
        """Return what `dataclasses.asdict` made plain data of."""
        first, second = data["transfer_syntaxes"]
        attributes = tuple(Attribute(**one) for one in data["attributes"])
        return cls(data["same_bytes"], (first, second), attributes, PixelComparison(data["pixels"]), data["problem"])


def in_words(differences: Differences) -> str:
    """Say in one phrase what differs; names of attributes, never their values."""
    if differences.same_bytes:
        return "the same bytes"
    said = []
    if differences.attributes:
        names = [one.name for one in differences.attributes[:NAMED]]
        more = len(differences.attributes) - len(names)
        said.append("other values of " + ", ".join(names) + (f" and {more} more" if more else ""))
    if differences.pixels is PixelComparison.OTHER:
        said.append("other pixels")
    if differences.problem:
        said.append(differences.problem)
    return "; ".join(said) or "the same content in another encoding"
