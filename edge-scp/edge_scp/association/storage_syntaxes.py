"""Which SOP classes and transfer syntaxes the edge stores.

Data sets are kept as they come, so any that the four identifying UIDs can be read from will do.
"""

from collections.abc import Iterable

from pydicom._uid_dict import UID_dictionary
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts

from bucky.dimse.commitment import EXPLICIT, IMPLICIT, PUSH_MODEL
from bucky.settings import Settings

VERIFICATION = "1.2.840.10008.1.1"
# Of reports on commitments only: whoever stores here cannot ask us for one (PS3.4 Annex J).
STORAGE_COMMITMENT = PUSH_MODEL
_OF_REPORTS = frozenset({IMPLICIT, EXPLICIT})

# Storage by name only: media directories, commitment, and objects that belong to no study (PS3.4 Annex GG).
_NOT_STORAGE_SERVICE = (
    "Media Storage Directory",
    "Storage Commitment",
    "Defined Procedure Protocol",
    "Protocol Approval",
    "Inventory",
    "Hanging Protocol",
    "Color Palette",
    "Implant",
)
# Registered as transfer syntaxes, but no encoding of a data set: MIME, XML, and the RTP streams of PS3.22.
_NOT_DATA_SETS = ("1.2.840.10008.1.2.6.", "1.2.840.10008.1.2.7.")


class Syntaxes:
    """The abstract and transfer syntaxes the edge accepts: all that are known, and those the settings add."""

    def __init__(self, settings: Settings) -> None:
        self.storage_sop_classes = _storage_sop_classes() | set(settings.edge_private_sop_classes)
        self.transfer_syntaxes = _transfer_syntaxes() | set(settings.edge_private_transfer_syntaxes)

    def serves(self, abstract: str) -> bool:
        """Tell whether the service is offered, in whatever transfer syntax."""
        return abstract in self.storage_sop_classes or abstract in {VERIFICATION, STORAGE_COMMITMENT}

    def known(self, abstract: str, proposed: Iterable[str]) -> list[str]:
        """Return those of the proposed transfer syntaxes that a service will do in, in the caller's order."""
        will_do = _OF_REPORTS if abstract == STORAGE_COMMITMENT else self.transfer_syntaxes
        return [uid for uid in proposed if uid in will_do]


def _storage_sop_classes() -> frozenset[str]:
    registered = {
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and not any(word in name for word in _NOT_STORAGE_SERVICE)
    }
    return frozenset(registered | {str(context.abstract_syntax) for context in AllStoragePresentationContexts})


def _transfer_syntaxes() -> frozenset[str]:
    registered = {uid for uid, (_, kind, *_rest) in UID_dictionary.items() if kind == "Transfer Syntax"}
    known = registered | {str(uid) for uid in ALL_TRANSFER_SYNTAXES}
    return frozenset(uid for uid in known if not uid.startswith(_NOT_DATA_SETS))
