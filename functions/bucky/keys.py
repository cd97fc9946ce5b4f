"""Where an instance is in the bucket."""

from bucky.uids import checked_uid


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
