"""What a C-STORE answer means for a delivery (PS3.4 Table B.2-1, PS3.7 Annex C)."""

from bucky.dimse.outgoing import Outcome

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
SOP_CLASS_NOT_SUPPORTED = 0x0122

_MEANINGS = {
    SUCCESS: "success",
    0x0001: "requested optional attributes are not supported",
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0107: "attribute list warning",
    PROCESSING_FAILURE: "processing failure",
    DUPLICATE_SOP_INSTANCE: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0116: "attribute value out of range",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xC122: "referenced transfer syntax not supported",
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class",
}
_FAMILIES = {
    0xA7: "out of resources",
    0xA9: "data set does not match SOP class",
    **dict.fromkeys(range(0xB0, 0xC0), "warning"),
    **dict.fromkeys(range(0xC0, 0xD0), "cannot understand"),
}
_WARNINGS = {0x0001, 0x0107, 0x0116}
_PASSING = {PROCESSING_FAILURE, 0x0213}


def meaning(status: int) -> str:
    """Return what the standard calls this status."""
    return _MEANINGS.get(status) or _FAMILIES.get(status >> 8, "unknown status")


def outcome(status: int) -> Outcome:
    """Decide whether the instance is there, never will be, or may be later.

    A processing failure says nothing about the instance, so it counts as passing.
    """
    if status == SUCCESS:
        return Outcome.STORED
    if status in _WARNINGS or status >> 12 == 0xB:
        return Outcome.WARNED
    if status >> 8 == OUT_OF_RESOURCES >> 8 or status in _PASSING:
        return Outcome.UNAVAILABLE
    return Outcome.REFUSED
