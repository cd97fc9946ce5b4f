"""Many instances to one peer: which contexts to propose, how many associations, one result for each."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import BinaryIO

from pydicom.uid import UID

from bucky.errors import DestinationUnavailable, Permanent, Retriable
from bucky.scu import status
from bucky.scu.association import Association
from bucky.scu.messages import MAX_CONTEXTS, Context, StoreResponse
from bucky.scu.peer import Peer
from bucky.scu.status import Outcome

MAX_LOST_ASSOCIATIONS = 3
_ABSTRACT_SYNTAX_NOT_SUPPORTED = 3


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One instance to send; `content` opens a stream that stands at the data set's first byte.

    `content` is called when the instance's turn comes, and may raise `Permanent` or `Retriable`.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content: Callable[[], BinaryIO]

    @property
    def context(self) -> Context:
        """Return the presentation context it needs."""
        return (self.sop_class_uid, self.transfer_syntax_uid)


@dataclass(frozen=True, slots=True)
class StoreResult:
    """How sending one instance ended; `reason` is ours and never holds the peer's words.

    `status` is None when the peer did not answer; `comment` is the peer's Error Comment, which may name
    a patient: show it to who may see patients, never log it. `retry_after` and `seconds` are in seconds.
    """

    outcome: Outcome
    reason: str = ""
    status: int | None = None
    comment: str = ""
    retry_after: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Limits:
    """When to begin nothing more: at a time of `time.monotonic()`, or when a mistake stops everything."""

    deadline: float
    stop: threading.Event = field(default_factory=threading.Event)

    def reached(self) -> bool:
        return self.stop.is_set() or time.monotonic() > self.deadline


OnResult = Callable[[int, StoreResult], None]
"""Told the index of each item and its result as soon as it is known; one call at a time."""


def store_all(
    peer: Peer,
    items: Sequence[Outgoing],
    *,
    associations: int = 1,
    seconds: float = math.inf,
    on_result: OnResult | None = None,
) -> list[StoreResult]:
    """Send every item over at most so many associations at once; return the results in the items' order.

    What has not begun after so many `seconds` is left for another time.
    """
    results: dict[int, StoreResult] = {}
    limits = _Limits(time.monotonic() + seconds)
    telling = threading.Lock()

    def tell(index: int, result: StoreResult) -> None:
        with telling:
            results[index] = result
            if on_result is not None:
                on_result(index, result)

    lanes = max(1, min(associations, len(items)))
    with ThreadPoolExecutor(lanes, "c-store") as pool:
        try:
            shares = [range(lane, len(items), lanes) for lane in range(lanes)]
            for work in [pool.submit(_store_share, peer, items, share, tell, limits) for share in shares]:
                work.result()
        except BaseException:
            limits.stop.set()
            raise
    return [results[index] for index in range(len(items))]


def association_groups(items: Sequence[Outgoing], indexes: Iterable[int]) -> Iterator[list[int]]:
    """Cut the items, in order, into groups that need at most 128 presentation contexts each."""
    group: list[int] = []
    contexts: set[Context] = set()
    for index in indexes:
        if items[index].context not in contexts and len(contexts) == MAX_CONTEXTS:
            yield group
            group, contexts = [], set()
        group.append(index)
        contexts.add(items[index].context)
    if group:
        yield group


def _store_share(peer: Peer, items: Sequence[Outgoing], share: Iterable[int], tell: OnResult, limits: _Limits) -> None:
    """Send one lane's items, association after association.

    The instance under way when an association is lost is left for another time, and the next ones get a new
    association: one that makes the peer fail does not hold back the others.
    """
    groups = deque(deque(group) for group in association_groups(items, share))
    left, lost = StoreResult(Outcome.UNAVAILABLE, "there was no time left for it in its batch"), 0
    while groups and lost < MAX_LOST_ASSOCIATIONS and not limits.reached():
        waiting = groups[0]
        try:
            association = Association(peer, sorted({items[index].context for index in waiting}))
        except DestinationUnavailable as error:
            left = _left(error)
            break
        error_met = _store_until_lost(association, items, waiting, tell, limits)
        if error_met is not None:
            left, lost = _left(error_met), lost + 1
        if not waiting:
            groups.popleft()
    if not limits.stop.is_set():
        for index in chain.from_iterable(groups):
            tell(index, left)


def _store_until_lost(
    association: Association, items: Sequence[Outgoing], waiting: deque[int], tell: OnResult, limits: _Limits
) -> DestinationUnavailable | None:
    """Send what waits over one association, taking off what was sent; return what ended it early."""
    with association:
        while waiting and not limits.reached():
            index = waiting.popleft()
            try:
                result = _store_one(association, items[index])
            except DestinationUnavailable as error:
                tell(index, _left(error))
                return error
            tell(index, result)
    return None


def _store_one(association: Association, item: Outgoing) -> StoreResult:
    """Send one instance; raise `DestinationUnavailable` only when the association is lost."""
    started = time.monotonic()
    context_id = association.context_id(item.context)
    if context_id is None:
        return StoreResult(Outcome.REFUSED, _context_refused(association.refusal(item.context), item))
    try:
        content = item.content()
    except Retriable as error:
        return StoreResult(Outcome.UNAVAILABLE, str(error), retry_after=error.retry_after)
    except Permanent as error:
        return StoreResult(Outcome.REFUSED, str(error))
    with content:
        response = association.store(context_id, item.sop_class_uid, item.sop_instance_uid, content)
    return _answered(response, time.monotonic() - started)


def _left(error: DestinationUnavailable) -> StoreResult:
    return StoreResult(Outcome.UNAVAILABLE, str(error), retry_after=error.retry_after)


def _answered(response: StoreResponse, seconds: float) -> StoreResult:
    words = ""
    if response.status != status.SUCCESS:
        words = f"the destination answered 0x{response.status:04X}, {status.meaning(response.status)}"
    return StoreResult(status.outcome(response.status), words, response.status, response.comment, seconds=seconds)


def _context_refused(result: int, item: Outgoing) -> str:
    sop_class = UID(item.sop_class_uid).name
    if result == _ABSTRACT_SYNTAX_NOT_SUPPORTED:
        return f"the destination does not accept {sop_class}"
    return f"the destination does not accept {sop_class} in {UID(item.transfer_syntax_uid).name}"
