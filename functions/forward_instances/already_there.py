"""What an instance counts as when its destination says that it is there already, and cannot be asked for its copy."""

from dataclasses import replace

from bucky.dimse.outgoing import Outcome, StoreResult

NOT_OURS_AS_FAR_AS_KNOWN = (
    "whether what it has is this instance is not known: no earlier sending of this delivery went without an answer. "
    "Compare them, delete the destination's copy if it is not the right one, and redrive"
)


def settled(result: StoreResult, sha256: str, unanswered_sha256: str | None, *, commits: bool) -> StoreResult:
    """Return the result for what may be there already; `sha256` is of the data set as it is sent now.

    The same bytes were sent whole before and had no answer: the destination's "already there" is that answer.
    Where it is to commit to what it has, its report decides.
    """
    if not result.exists:
        return result
    if unanswered_sha256 == sha256:
        why = "it was sent whole before, and the answer was lost"
        return replace(result, outcome=Outcome.STORED, reason=f"it is there already: {result.reason}; {why}")
    if commits:
        why = "it is asked to commit to keeping what it has"
        return replace(result, outcome=Outcome.WARNED, reason=f"it is there already: {result.reason}; {why}")
    return replace(result, reason=f"{result.reason}; {NOT_OURS_AS_FAR_AS_KNOWN}")
