"""Where an instance is in the bucket."""

import re
from typing import NamedTuple

from bucky.dicom.uids import checked_uid

_UID = r"(?!\.{1,2}/)[0-9.]{1,64}"
_KEY = re.compile(rf"studies/({_UID})/({_UID})/({_UID})/([0-9a-f]{{64}})\.dcm")


def object_key(study: str, series: str, instance: str, sha256: str) -> str:
    """Return `studies/<study>/<series>/<instance>/<sha256>.dcm`, every UID checked first."""
    return "/".join(
        (
            "studies",
            checked_uid(study, "StudyInstanceUID"),
            checked_uid(series, "SeriesInstanceUID"),
            checked_uid(instance, "SOPInstanceUID"),
            f"{sha256}.dcm",
        )
    )


def is_decision(key: str) -> bool:
    """Return whether a key is that of a decision about a conflict (`bucky.routing.corrections`)."""
    return key.startswith("decisions/") and key.endswith(".json")


class KeyParts(NamedTuple):
    """What a key says of its instance."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sha256: str


def key_parts(key: str) -> KeyParts | None:
    """Return what a key says, or None when it is not the key of an instance."""
    match = _KEY.fullmatch(key)
    return KeyParts(*match.groups()) if match else None
