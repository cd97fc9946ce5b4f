"""Many instances to one peer: which contexts to propose, how many associations, one result for each."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain

from pydicom.uid import UID

from bucky.dimse import status
from bucky.dimse.association import RequestedAssociation
from bucky.dimse.messages import MAX_CONTEXTS, Context, StoreResponse
from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult, not_sent
from bucky.dimse.peer import Peer
from bucky.errors import DestinationUnavailable, Permanent, Retriable

MAX_LOST_ASSOCIATIONS = 3
_ABSTRACT_SYNTAX_NOT_SUPPORTED = 3


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
    """Send every item over a limited number of associations at once; return the results in the items' order.

    What has not begun within `seconds` is left for another time.
    """
    results: dict[int, StoreResult] = {}
    limits = _Limits(time.monotonic() + seconds)
    telling = threading.Lock()

    def tell(index: int, result: StoreResult) -> None:
        with telling:
            results[index] = result
            if on_result is not None:
                on_result(index, result)

    threads = max(1, min(associations, len(items)))
    shares = [range(thread, len(items), threads) for thread in range(threads)]
    if threads == 1:
        _store_share(peer, items, shares[0], tell, limits)
    else:
        with ThreadPoolExecutor(threads, "c-store") as pool:
            try:
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
        needed = set(contexts_for(items[index]))
        if len(contexts | needed) > MAX_CONTEXTS:
            yield group
            group, contexts = [], set()
        group.append(index)
        contexts |= needed
    if group:
        yield group


def contexts_for(item: Outgoing) -> tuple[Context, ...]:
    """Return the presentation contexts an instance can go in: as it is first, then each conversion."""
    return tuple((item.sop_class_uid, syntax) for syntax in (item.transfer_syntax_uid, *item.conversions))


def _store_share(peer: Peer, items: Sequence[Outgoing], share: Iterable[int], tell: OnResult, limits: _Limits) -> None:
    """Send one thread's items, association after association.

    The instance under way when an association is lost is left for another time, and the next ones get a new
    association: one that makes the peer fail does not hold back the others.
    """
    groups = deque(deque(group) for group in association_groups(items, share))
    left, lost = StoreResult(Outcome.UNAVAILABLE, "there was no time left for it in its batch", begun=False), 0
    while groups and lost < MAX_LOST_ASSOCIATIONS and not limits.reached():
        waiting = groups[0]
        try:
            association = RequestedAssociation(
                peer, sorted({context for index in waiting for context in contexts_for(items[index])})
            )
        except DestinationUnavailable as error:
            left = not_sent(error)
            break
        error_met = _store_until_lost(association, items, waiting, tell, limits)
        if error_met is not None:
            left, lost = replace(not_sent(error_met), unanswered=False, begun=False), lost + 1
        if not waiting:
            groups.popleft()
    if not limits.stop.is_set():
        for index in chain.from_iterable(groups):
            tell(index, left)


def _store_until_lost(
    association: RequestedAssociation, items: Sequence[Outgoing], waiting: deque[int], tell: OnResult, limits: _Limits
) -> DestinationUnavailable | None:
    """Send what waits over one association, taking off what was sent; return what ended it early."""
    with association:
        while waiting and not limits.reached():
            index = waiting.popleft()
            try:
                result = _store_one(association, items[index])
            except DestinationUnavailable as error:
                tell(index, not_sent(error))
                return error
            tell(index, result)
    return None


def _store_one(association: RequestedAssociation, item: Outgoing) -> StoreResult:
    """Send one instance; raise `DestinationUnavailable` only when the association is lost."""
    started = time.monotonic()
    ids = ((association.context_id(context), context[1]) for context in contexts_for(item))
    accepted = [(context_id, syntax) for context_id, syntax in ids if context_id is not None]
    if not accepted:
        return StoreResult(Outcome.REFUSED, _context_refused(association, item))
    context_id, syntax = accepted[0]
    try:
        content = item.opened(syntax)
    except (Permanent, Retriable) as error:
        return not_sent(error)
    with content:
        response = association.store(context_id, item.sop_class_uid, item.sop_instance_uid, content)
    return _answered(response, item, syntax, time.monotonic() - started)


def _answered(response: StoreResponse, item: Outgoing, syntax: str, seconds: float) -> StoreResult:
    answer, words = f"0x{response.status:04X}", []
    converted = syntax != item.transfer_syntax_uid
    if response.status != status.SUCCESS:
        words.append(f"the destination answered {answer}, {status.meaning(response.status)}")
    if converted:
        own = UID(item.transfer_syntax_uid).name
        words.append(f"sent losslessly as {UID(syntax).name}: the destination does not accept {own}")
    return StoreResult(
        status.outcome(response.status),
        "; ".join(words),
        response.status,
        response.comment,
        seconds=seconds,
        answer=answer,
        transfer_syntax_uid=syntax if converted else "",
        exists=response.status == status.DUPLICATE_SOP_INSTANCE,
    )


def _context_refused(association: RequestedAssociation, item: Outgoing) -> str:
    sop_class = UID(item.sop_class_uid).name
    if association.refusal((item.sop_class_uid, item.transfer_syntax_uid)) == _ABSTRACT_SYNTAX_NOT_SUPPORTED:
        return f"the destination does not accept {sop_class}"
    syntaxes = " or ".join(UID(syntax).name for _, syntax in contexts_for(item))
    return f"the destination does not accept {sop_class} in {syntaxes}"
