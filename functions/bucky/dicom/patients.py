"""How many patients there are by what their instances say: a Patient ID is one of an issuer (PS3.3 §C.7.1.1)."""

from collections import defaultdict
from collections.abc import Iterable


def patient_count(patients: Iterable[tuple[str | None, str | None]]) -> int:
    """Return how many patients these Patient IDs and issuers are.

    One without an issuer may be any of that ID; what has no ID is no other patient.
    """
    issuers: dict[str, set[str]] = defaultdict(set)
    anybody = False
    for patient_id, issuer in patients:
        anybody = True
        if patient_id:
            issuers[patient_id] |= {issuer} if issuer else set()
    return sum(max(1, len(of)) for of in issuers.values()) or int(anybody)
