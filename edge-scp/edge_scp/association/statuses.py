"""The DIMSE statuses the edge answers, by the names the standard gives them.

PS3.7 Annex C for the general ones, PS3.4 §B.2.3 for those of the storage service, PS3.7 §10.1.1.1.8 for N-EVENT-REPORT.
"""

from enum import IntEnum


class Status(IntEnum):
    """The Status (0000,0900) of a response."""

    SUCCESS = 0x0000
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NO_SUCH_EVENT_TYPE = 0x0113
    INVALID_ARGUMENT_VALUE = 0x0115
    UNRECOGNIZED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    PROCESSING_FAILURE = 0x0110


# Error Comment (0000,0902) is LO: 64 characters (PS3.7 §C, PS3.5 §6.2).
COMMENT_LENGTH = 64
