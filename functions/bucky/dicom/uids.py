"""DICOM unique identifiers (PS3.5 §9): the one check before a UID comes near a path or a subject."""

import re
import uuid

from bucky.errors import InvalidInstance

_UID = re.compile(r"[0-9.]{1,64}")


def checked_uid(value: str, keyword: str) -> str:
    """Return the UID as it is, or raise `InvalidInstance` naming the attribute; the value is not echoed."""
    if not _UID.fullmatch(value) or value in {".", ".."}:
        raise InvalidInstance(f"{keyword} is missing or not a valid UID (PS3.5 §9.1)")
    return value


def new_uid() -> str:
    """Return a UID that nobody else has (PS3.5 §B.2)."""
    return f"2.25.{uuid.uuid4().int}"
