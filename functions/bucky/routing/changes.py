"""What a rule may change on the way, as validated data.

    - {set: InstitutionName, value: Example Hospital}
    - {delete: PatientComments}
    - {prepend: AccessionNumber, value: RX-}
    - {suffix: PatientID, value: "^T"}
    - {regex_replace: StudyDescription, regex: "(?i)^thorax ", with: "CHEST "}
    - {copy: AccessionNumber, to: StudyID}
    - {move: PatientComments, to: AdditionalPatientHistory}
    - {crosswalk: PatientID, table: ward-ids, otherwise: refuse}

Attributes are named as in conditions. A path through a sequence means every item that is there; none is made.
"""

import re
from typing import Annotated, Any, Literal, Self

import re2
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydicom.datadict import dictionary_VR

from bucky.dicom.element_vr import WRITABLE_VRS
from bucky.routing.attributes import attribute_path
from bucky.routing.conditions import MAX_PATTERN_LENGTH, Operand
from bucky.text.names import NAME_PATTERN
from bucky.text.patterns import compiled

_IDENTITY = {
    "00080016": "SOPClassUID",
    "00080018": "SOPInstanceUID",
    "0020000D": "StudyInstanceUID",
    "0020000E": "SeriesInstanceUID",
}
_CHARACTER_SET = "00080005"
_ORIGINAL_ATTRIBUTES = "04000561"
# Group 0028 says how to read the pixels; these two only how to show them.
_DISPLAY = frozenset({"00281050", "00281051"})


def _changeable(attribute: str) -> str:
    """Refuse what is not an attribute, or is one that the instance would no longer be itself without."""
    steps = attribute_path(attribute)
    tag, first = steps[-1].tag, steps[0].tag
    if first in _IDENTITY:
        raise ValueError(f"{attribute} says which instance it is: a function that makes another instance may change it")
    if first == _CHARACTER_SET:
        raise ValueError(f"{attribute} follows the values and is changed with them")
    if first[:4] in {"0000", "0002"} or first >= "7FE0" or tag[4:] == "0000":
        raise ValueError(f"{attribute} is not a changeable part of the data set")
    if first[:4] == "0028" and first not in _DISPLAY:
        raise ValueError(f"{attribute} says how the pixels are stored, and those stay as they are")
    return attribute


def _writable(attribute: str) -> str:
    """Refuse what has no text or number for its value."""
    tag = int(attribute_path(_changeable(attribute))[-1].tag, 16)
    if attribute_path(attribute)[0].tag == _ORIGINAL_ATTRIBUTES:
        raise ValueError(f"{attribute} is a record of changes; it can be deleted, not written")
    if tag >> 16 & 1:
        raise ValueError(f"{attribute} is private: it can be deleted or copied from, not written")
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        raise ValueError(f"{attribute} is not in the data dictionary: it can be deleted or copied from") from None
    if vr not in WRITABLE_VRS:
        raise ValueError(f"{attribute} has the VR {vr}, which has no text or number to write")
    return attribute


def _readable(attribute: str) -> str:
    attribute_path(attribute)
    return attribute


Source = Annotated[str, AfterValidator(_readable)]
Deletable = Annotated[str, AfterValidator(_changeable)]
Target = Annotated[str, AfterValidator(_writable)]
Text = Annotated[str, Field(min_length=1, max_length=1024)]


class _Action(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class SetAction(_Action):
    """Give it this value, or these."""

    set: Target
    value: Operand | Annotated[tuple[Operand, ...], Field(min_length=1, max_length=100)]


class DeleteAction(_Action):
    """Leave it out."""

    delete: Deletable


class PrependAction(_Action):
    """Put a text before each value; where there is no value, nothing."""

    prepend: Target
    value: Text


class SuffixAction(_Action):
    """Put a text behind each value; where there is no value, nothing."""

    suffix: Target
    value: Text


class RegexReplaceAction(_Action):
    """Replace what an RE2 pattern finds in each value; `\\1` stands for the first group."""

    regex_replace: Target
    regex: str = Field(min_length=1, max_length=MAX_PATTERN_LENGTH)
    with_: str = Field(alias="with", max_length=1024)

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        try:
            groups = compiled(self.regex).groups
        except re2.error as error:
            raise ValueError(f"not a valid RE2 pattern: {error}") from None
        escapes = re.findall(r"\\(.?)", self.with_)
        if any(one != "\\" and not (one.isdigit() and int(one) <= groups) for one in escapes):
            raise ValueError(f"`with` may name the groups \\1 to \\{groups}, and writes a backslash as \\\\")
        return self


class CopyAction(_Action):
    """Give another attribute the same values; where there are none, leave it as it is."""

    copy_: Source = Field(alias="copy")
    to: Target


class MoveAction(_Action):
    """Give another attribute the values, and leave this one out; where there are none, do nothing."""

    move: Deletable
    to: Target


class CrosswalkAction(_Action):
    """Replace each value by what a crosswalk has for it, here or in the attribute `to`."""

    crosswalk: Source
    table: str = Field(pattern=NAME_PATTERN)
    to: Target | None = None
    otherwise: Literal["refuse", "keep", "delete"] = Field(
        "refuse", description="For a value without an entry: do not send the instance, keep the value, or leave it out."
    )

    @model_validator(mode="after")
    def _target_is_writable(self) -> Self:
        _writable(self.target)
        return self

    @property
    def target(self) -> str:
        """The attribute that is written."""
        return self.to or self.crosswalk


ACTIONS = (
    SetAction,
    DeleteAction,
    PrependAction,
    SuffixAction,
    RegexReplaceAction,
    CopyAction,
    MoveAction,
    CrosswalkAction,
)
_KINDS = ("set", "delete", "prepend", "suffix", "regex_replace", "copy", "move", "crosswalk")


def _kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    return next((kind for kind in _KINDS if kind in keys or f"{kind}_" in keys), None)


Action = Annotated[
    Annotated[SetAction, Tag("set")]
    | Annotated[DeleteAction, Tag("delete")]
    | Annotated[PrependAction, Tag("prepend")]
    | Annotated[SuffixAction, Tag("suffix")]
    | Annotated[RegexReplaceAction, Tag("regex_replace")]
    | Annotated[CopyAction, Tag("copy")]
    | Annotated[MoveAction, Tag("move")]
    | Annotated[CrosswalkAction, Tag("crosswalk")],
    Discriminator(
        _kind,
        custom_error_type="no_action",
        custom_error_message="a change needs one of: " + ", ".join(_KINDS),
    ),
]
