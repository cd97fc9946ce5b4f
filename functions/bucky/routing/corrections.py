"""What was decided about bytes that came under a SOP Instance UID that was taken, as data and as an object.

A decision lies in the bucket too, so that an index rebuilt from it decides nothing anew: one JSON object under
`decisions/`, written once and never changed. The newest one about a SOP Instance UID holds.
"""

from collections.abc import Mapping
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bucky.text.identifiers import Sha256, Uid


class Verdict(StrEnum):
    """What was decided."""

    ACCEPTED = "accepted"
    """The bytes are current, in place of those that were."""
    REJECTED = "rejected"
    """The bytes stay aside."""
    REOPENED = "reopened"
    """The decision before was undone."""


class ConflictDecision(BaseModel):
    """One decision; it says all that holds from then on.

    `current_sha256` are the bytes that are current, `other_sha256` those that were until then, and `settled` the
    others that need no decision, by their digests, each with the number of the decision.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    sop_instance_uid: str = Uid
    number: int = Field(gt=0)
    verdict: Verdict
    sha256: str = Sha256
    other_sha256: str = Sha256
    current_sha256: str = Sha256
    settled: Mapping[str, int]
    study_instance_uid: str = Uid
    series_instance_uid: str = Uid
    decided_at: AwareDatetime
    author: str
    note: str

    @property
    def swaps(self) -> bool:
        """Whether other bytes became current."""
        return self.current_sha256 != self.other_sha256

    @property
    def key(self) -> str:
        """Return its object's key, which no other decision has."""
        moment = f"{self.decided_at:%Y%m%dT%H%M%S.%fZ}"
        return f"{DECISIONS}{self.sop_instance_uid}/{moment}-{self.verdict}-{self.sha256}.json"


DECISIONS = "decisions/"
