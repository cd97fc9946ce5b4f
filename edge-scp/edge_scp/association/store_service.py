"""What to do with one C-STORE request: a pure decision, before anything touches the disk (PS3.4 Annex B).

An instance is kept under the UIDs in its own data set. A data set that lacks one of them (SOP Class,
SOP Instance, Study or Series Instance UID, all Type 1) is refused even where the command set could lend
it: its bytes alone could not tell a rebuilt index what they are, nor could the next node.
"""

from dataclasses import dataclass
from typing import NamedTuple

from bucky.dicom.identity import Identity, IdentityReader
from bucky.dicom.uids import checked_uid
from bucky.errors import InvalidInstance
from edge_scp.association.statuses import COMMENT_LENGTH, Status


class StoreCommand(NamedTuple):
    """What the command set and the accepted presentation context say about the data set to come."""

    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    abstract_syntax_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an instance is not kept; `comment` never holds a value out of the data set."""

    status: Status
    comment: str

    @property
    def error_comment(self) -> str:
        """Return the comment as Error Comment (0000,0902) can hold it: short, and in ASCII (PS3.7 §6.3.1)."""
        return self.comment.replace("§", "").encode("ascii", "replace").decode()[:COMMENT_LENGTH]


def objection(command: StoreCommand) -> Refusal | None:
    """Return why an instance is refused whatever its data set is, or None."""
    if command.affected_sop_class_uid != command.abstract_syntax_uid:
        return Refusal(Status.SOP_CLASS_NOT_SUPPORTED, "Affected SOP Class UID is not its presentation context's")
    try:
        checked_uid(command.affected_sop_class_uid, "AffectedSOPClassUID")
        checked_uid(command.affected_sop_instance_uid, "AffectedSOPInstanceUID")
    except InvalidInstance as error:
        return Refusal(Status.CANNOT_UNDERSTAND, str(error))
    return None


def decide(command: StoreCommand, reader: IdentityReader) -> Identity | Refusal:
    """Return the identity to keep the data set under, or the refusal to answer.

    The command is one without `objection`; the reader has seen enough of the data set, or all of it.
    """
    try:
        identity = reader.identity()
    except InvalidInstance as error:
        return Refusal(Status.CANNOT_UNDERSTAND, str(error))
    if identity.sop_class_uid != command.affected_sop_class_uid:
        return Refusal(Status.DATA_SET_MISMATCH, "SOP Class UID of data set and command differ")
    if identity.sop_instance_uid != command.affected_sop_instance_uid:
        return Refusal(Status.DATA_SET_MISMATCH, "SOP Instance UID of data set and command differ")
    return identity
