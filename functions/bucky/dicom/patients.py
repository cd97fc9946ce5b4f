"""How many patients there are by what their instances say: a Patient ID is one of an issuer (PS3.3 §C.7.1.1).

And whether instances give one patient several names.
"""

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


def several_names(patients: Iterable[tuple[str | None, str | None]]) -> bool:
    """Return whether one Patient ID goes with several names; case and empty components at the end are no difference."""
    names: dict[str | None, set[str]] = defaultdict(set)
    for patient_id, name in patients:
        if name:
            names[patient_id].add(name.rstrip("^= ").casefold())
    return any(len(of) > 1 for of in names.values())
