"""Rules that decide about bytes that came under a SOP Instance UID that was taken: pure."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydicom.datadict import tag_for_keyword

from bucky.differences import Differences, PixelComparison
from bucky.routing.corrections import Verdict
from bucky.text.names import NAME_PATTERN


def _known(keyword: str) -> str:
    if tag_for_keyword(keyword) is None:
        raise ValueError(f"{keyword!r} is no keyword of an attribute (PS3.6)")
    return keyword


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConflictCondition(_Model):
    """What the later bytes must have in common with the current ones; what is left out may be either.

    `header_differs_in`: the header differs in some of these attributes, and in no other. Pixels that could not be
    compared are neither the same nor other ones.
    """

    header: Literal["same", "other"] | None = None
    pixels: Literal["same", "other"] | None = None
    transfer_syntax: Literal["same", "other"] | None = None
    header_differs_in: tuple[Annotated[str, AfterValidator(_known)], ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.header or self.pixels or self.transfer_syntax or self.header_differs_in):
            raise ValueError("a conflict rule must say when it applies")
        if self.header == "same" and self.header_differs_in:
            raise ValueError("a header that is the same differs in nothing: leave out header or header_differs_in")
        return self

    def holds(self, found: Differences) -> bool:
        """Return whether this is so; never of what could not be compared to its end."""
        if found.problem:
            return False
        header_same = not found.attributes
        pixels_same = found.pixels in {PixelComparison.SAME, PixelComparison.NONE}
        syntax_same = found.transfer_syntaxes[0] == found.transfer_syntaxes[1]
        for wanted, same in (
            (self.header, header_same),
            (self.pixels, pixels_same),
            (self.transfer_syntax, syntax_same),
        ):
            if wanted is not None and same != (wanted == "same"):
                return False
        names = {one.name for one in found.attributes}
        return not self.header_differs_in or (bool(names) and names <= set(self.header_differs_in))


class ConflictRule(_Model):
    """What is decided when the condition holds; the first rule that applies does."""

    name: str = Field(pattern=NAME_PATTERN)
    when: ConflictCondition
    then: Literal["keep-first", "accept-new"]

    @property
    def verdict(self) -> Verdict:
        """Return what it decides about the later bytes."""
        return Verdict.ACCEPTED if self.then == "accept-new" else Verdict.REJECTED


def rule_for(rules: Sequence[ConflictRule], found: Differences) -> ConflictRule | None:
    """Return the first rule that applies; None leaves the conflict to somebody."""
    return next((rule for rule in rules if rule.when.holds(found)), None)
