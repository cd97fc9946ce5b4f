"""What a STOW-RS answer says of each instance (PS3.18 §10.5.3, Annex I.2): pure."""

from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, TypeAdapter

from bucky.dimse import status
from bucky.dimse.outgoing import Outcome, StoreResult

_T = TypeVar("_T")

ALREADY_STORED = 0xB00E
"""Failure Reason of Azure's DICOM service: an instance of these UIDs is there (45070)."""
BEING_STORED = 0xB00F
"""Another request is storing an instance of these UIDs, or did not finish (45071)."""
_REASONS = {
    ALREADY_STORED: "an instance with these UIDs is there already",
    BEING_STORED: "an instance with these UIDs is being stored just now",
}


class _Uids(BaseModel):
    values: tuple[str | None, ...] = Field((), alias="Value")


class _Reasons(BaseModel):
    values: tuple[Annotated[int, Field(ge=0, le=0xFFFF)] | None, ...] = Field((), alias="Value")


class _Item(BaseModel):
    """An item of either sequence; the names are those of the DICOM JSON model (PS3.18 §F.2.2)."""

    uid: _Uids = Field(_Uids(), alias="00081155")
    warning: _Reasons = Field(_Reasons(), alias="00081196")
    failure: _Reasons = Field(_Reasons(), alias="00081197")


class _Sequence(BaseModel):
    values: tuple[_Item, ...] = Field((), alias="Value")


class _Response(BaseModel):
    referenced: _Sequence = Field(_Sequence(), alias="00081199")
    failed: _Sequence = Field(_Sequence(), alias="00081198")


_RESPONSE: TypeAdapter[_Response | tuple[_Response]] = TypeAdapter(_Response | tuple[_Response])


@dataclass(frozen=True, slots=True)
class StowAnswer:
    """The SOP Instance UIDs that were stored, each with its Warning Reason if any, and those that failed."""

    stored: dict[str, int | None] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def result(self, sop_instance_uid: str, http_status: int) -> StoreResult:
        """Return what became of one instance."""
        answer = f"HTTP {http_status}"
        if sop_instance_uid in self.failed:
            reason = self.failed[sop_instance_uid]
            return StoreResult(
                _failure(reason),
                f"the destination answered 0x{reason:04X}, {_REASONS.get(reason) or status.meaning(reason)}",
                reason,
                answer=f"{answer}, 0x{reason:04X}",
                exists=reason in {ALREADY_STORED, status.DUPLICATE_SOP_INSTANCE},
            )
        if sop_instance_uid not in self.stored:
            return StoreResult(
                Outcome.UNAVAILABLE, f"the destination answered {answer} but did not name the instance", answer=answer
            )
        warning = self.stored[sop_instance_uid]
        if warning is None:
            return StoreResult(Outcome.STORED, answer=answer)
        return StoreResult(Outcome.WARNED, _words(warning), warning, answer=f"{answer}, 0x{warning:04X}")


def read_answer(body: bytes) -> StowAnswer:
    """Read a Store Instances Response in the DICOM JSON model; raise `ValueError` when it is anything else."""
    response = _RESPONSE.validate_json(body)
    if isinstance(response, tuple):
        (response,) = response
    answer = StowAnswer()
    for item in response.referenced.values:
        answer.stored[_first(item.uid.values, "")] = _first(item.warning.values, None)
    for item in response.failed.values:
        answer.failed[_first(item.uid.values, "")] = _first(item.failure.values, status.PROCESSING_FAILURE)
    return answer


def _first(values: tuple[_T | None, ...], otherwise: _T) -> _T:
    return next((value for value in values if value is not None), otherwise)


def _failure(reason: int) -> Outcome:
    """Return what a Failure Reason means: never that it arrived, though it looks like a warning."""
    if reason == BEING_STORED:
        return Outcome.UNAVAILABLE
    outcome = status.outcome(reason)
    return Outcome.REFUSED if outcome.arrived else outcome


def _words(reason: int) -> str:
    return f"the destination answered 0x{reason:04X}, {status.meaning(reason)}"
