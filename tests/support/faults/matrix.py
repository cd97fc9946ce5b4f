"""The fault matrix: each fault, at each destination that can have it, beside one that is well; and what came of it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from bucky.cloudevents import utc_now
from bucky.dimse import Outcome, Peer, status, store_all
from bucky.index import DeliveryRow, DeliveryState
from local_stack.demo_routing import DESTINATION
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.faults.node import AET, OTHER_CLASS, Fault, Node
from tests.support.faults.nodes import NODES, Storescp
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually

INSTANCES = 30
OTHERS = 4
"""So many of the instances are of another SOP class than the rest."""
CT = "1.2.840.10008.5.1.4.1.1.2"
HEALTHY_SECONDS = 300.0
SHOWN_SECONDS = 300.0
RIGHT_SECONDS = 300.0
TIMEOUT_SECONDS = 1.5
"""How long the destinations may be silent: shorter than in life, so that a hanging one is noticed while we watch."""
SLOW_LINE_TIMEOUT_SECONDS = 10.0
"""The same over the slow line, where an instance is on its way for four seconds: room for a busy machine to answer."""
ALONE = "ALONE"

# What the index must say of it, while it lasts or at the end.
REASONS: Mapping[Fault, str] = {
    Fault.REFUSES_ASSOCIATION: r"NODE@127\.0\.0\.1:\d+ rejected the association \(.*: .*\)",
    Fault.REFUSES_CLASS: r"the destination does not accept Confocal Microscopy Image Storage",
    Fault.WARNS: r"the destination answered 0xB00\d, \w+",
    Fault.FAILS_THIRD: r"the destination answered 0x[AC]\d\d\d, (out of resources|cannot understand|data set does not)",
    Fault.ABORTS: r"NODE@127\.0\.0\.1:\d+ aborted the association",
    Fault.HANGS: r"NODE@127\.0\.0\.1:\d+ did not answer within 1\.5 s",
    Fault.DOWN: r"NODE@127\.0\.0\.1:\d+ (cannot be reached: Connection refused|closed the connection)",
}
LASTING = {Fault.REFUSES_ASSOCIATION, Fault.ABORTS, Fault.HANGS, Fault.CRAWLS, Fault.DOWN}
"""While these last, not everything can arrive."""
SETTLED = {DeliveryState.DELIVERED, DeliveryState.DEAD_LETTER}


@dataclass(frozen=True)
class Case:
    """One fault of one destination."""

    fault: Fault
    node: type[Node]

    @property
    def name(self) -> str:
        """A name for the test and for the destination."""
        return f"{self.fault.name.lower().replace('_', '-')}-{self.node.name}"

    @property
    def heals(self) -> bool:
        """Whether the destination gets well again: from refusing for good there is nothing to wait for."""
        passing = self.fault is Fault.FAILS_THIRD and self.node is Storescp
        return passing or (self.fault in LASTING and self.fault is not Fault.CRAWLS)

    @property
    def aet(self) -> str:
        """The calling AE title whose instances go there."""
        return f"{list(Fault).index(self.fault)}-{self.node.name}".upper()


CASES = [Case(fault, node) for fault in Fault for node in NODES]


@dataclass
class Row:
    """What came of a case: a line of the table."""

    case: Case
    means: str = ""
    alone: float = 0.0
    beside: float = 0.0
    reason: str = ""
    healed_at: datetime | None = None
    right_after: float | None = None
    delivered: int = 0
    dead: int = 0
    held: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    sent: Sequence[Sample] = ()


class Matrix:
    """The stack, the nodes, and what was found of each case so far."""

    def __init__(self, stack: RunningStack, folder: Path) -> None:
        self._stack = stack
        self.rows: dict[Case, Row] = {}
        self._nodes: dict[Case, Node] = {}
        self._folder = folder
        self._alone = 0.0

    def open(self, cases: Sequence[Case]) -> None:
        """Start a node for each case, see that something arrives at each, and measure the pace without a fault."""
        for case in cases:
            self._nodes[case] = case.node(self._folder / case.name)
        self._route()
        self._see_one_arrive()
        # The median of a few: the first is often slower.
        self._alone = sorted(self._healthy_seconds(ALONE, mixed(INSTANCES)) for _ in range(4))[1]

    def close(self) -> None:
        """End the nodes."""
        for node in self._nodes.values():
            node.close()

    def suffer(self, case: Case) -> Row:
        """Send while the destination goes wrong, see the others served and the reason shown, and make it well."""
        sent = mixed(INSTANCES)
        node = self._nodes[case]
        row = self.rows[case] = Row(case, sent=sent, alone=self._alone)
        row.means = node.inject(case.fault, sent)
        row.beside = self._healthy_seconds(case.aet, sent)
        deliveries = self._of(case)
        if case.fault in LASTING:
            assert {one.state for one in deliveries} != {DeliveryState.DELIVERED}, "the fault was over too soon"
        if case.fault in REASONS:
            row.reason = self._reason(case)
        assert self._delivered(case) <= self._answered(node), "shown as delivered without the destination's word"
        if case.heals:
            node.heal()
            row.healed_at = utc_now()
        return row

    def finish(self, case: Case) -> Row:
        """Wait until each delivery has its end, and compare that with the destination's own truth."""
        row, node = self.rows[case], self._nodes[case]
        expected = others(row.sent) if case.fault is Fault.CRAWLS else row.sent
        self._reach(case, SETTLED, len(expected))
        deliveries = self._of(case)
        if row.healed_at is not None:
            row.right_after = (max(one.updated_at for one in deliveries) - row.healed_at).total_seconds()
        uids = {one.sop_instance_uid for one in row.sent}
        row.held = self._compare(case)
        row.delivered = len(self._delivered(case))
        row.dead = len(deliveries) - row.delivered
        row.answers = Counter(f"{one.status:04X}" for one in node.proxy.answers if one.sop_instance_uid in uids)
        row.reason = row.reason or next((one.reason for one in deliveries if one.reason), "")
        return row

    def send_again(self, case: Case) -> None:
        """Make the destination well, and have its dead letters sent again, as an administrator does."""
        self._nodes[case].heal()
        asked = self._stack.api.post("/api/dead-letters/redrive", {"destination": case.name})
        assert (len(asked["redriven"]), asked["failed"]) == (self.rows[case].dead, {})
        self._reach(case, {DeliveryState.DELIVERED}, INSTANCES)
        assert self._compare(case) == INSTANCES

    def _compare(self, case: Case) -> int:
        """See that index and destination say the same, by UID and digest; return how many instances it holds."""
        node, digests = self._nodes[case], {one.sop_instance_uid: one.sha256 for one in self.rows[case].sent}
        delivered = self._delivered(case)
        held = {uid: kept for uid, kept in node.held().items() if uid in digests}
        assert held == {uid: {digests[uid]} for uid in delivered}, "index and destination differ"
        assert delivered == self._answered(node) & digests.keys()
        return len(held)

    def dead_letters(self, case: Case) -> dict[str, str]:
        """Return the reason of each dead letter, by SOP Instance UID."""
        dead = (one for one in self._of(case) if one.state is DeliveryState.DEAD_LETTER)
        return {one.sop_instance_uid: one.reason for one in dead}

    def indexed(self, case: Case) -> Counter[str]:
        """Return the digests the index has of what was sent."""
        return Counter(row.sha256 for row in self._stack.instances(self.rows[case].sent[0].study_instance_uid))

    def _route(self) -> None:
        """Make a destination and a rule for each case."""
        current = self._stack.api.get("/api/routing")
        document = current["document"]
        for case, node in self._nodes.items():
            document["destinations"].append(
                {
                    **{"name": case.name, "type": "dimse", "aet": AET, "host": "127.0.0.1", "port": node.proxy.port},
                    "timeout_seconds": SLOW_LINE_TIMEOUT_SECONDS if case.fault is Fault.CRAWLS else TIMEOUT_SECONDS,
                }
            )
            document["rules"].append({"name": case.name, "when": _when(case), "destinations": [case.name]})
        self._stack.api.put("/api/routing", document, current["version"])

    def _see_one_arrive(self) -> None:
        first = mixed(len(self._nodes), different=len(self._nodes))
        for case, one in zip(self._nodes, first, strict=True):
            self._send(case.aet, [one])
        study = first[0].study_instance_uid
        eventually(
            lambda: len(self._stack.deliveries(study, DeliveryState.DELIVERED)) == 2 * len(first),
            "every destination has got its first instance",
            seconds=SHOWN_SECONDS,
        )

    def _healthy_seconds(self, aet: str, sent: Sequence[Sample]) -> float:
        """Send, and return the seconds from the first instance's reception to the healthy destination's last answer."""
        self._send(aet, sent)
        study = sent[0].study_instance_uid

        def arrived() -> list[DeliveryRow]:
            rows = self._stack.deliveries(study, DeliveryState.DELIVERED)
            return [row for row in rows if row.destination == DESTINATION]

        eventually(
            lambda: len(arrived()) == len(sent), f"the healthy destination got all of {aet}", seconds=HEALTHY_SECONDS
        )
        ended = max(row.completed_at or row.updated_at for row in arrived())
        return (ended - min(row.received_at for row in arrived())).total_seconds()

    def _send(self, aet: str, sent: Sequence[Sample]) -> None:
        peer = Peer("BUCKY", "127.0.0.1", self._stack.ports.dicom, calling_aet=aet)
        results = store_all(peer, [one.outgoing for one in sent], associations=2)
        assert {result.outcome for result in results} == {Outcome.STORED}

    def _of(self, case: Case) -> list[DeliveryRow]:
        study = self.rows[case].sent[0].study_instance_uid
        return [row for row in self._stack.deliveries(study) if row.destination == case.name]

    def _reach(self, case: Case, states: set[DeliveryState], count: int) -> None:
        """Wait until so many deliveries are in these states; else say in which they are, and why."""

        def reached() -> bool:
            deliveries = self._of(case)
            return len(deliveries) == count and {one.state for one in deliveries} <= states

        try:
            eventually(
                reached, f"{count} deliveries of {case.name} are {', '.join(sorted(states))}", seconds=RIGHT_SECONDS
            )
        except AssertionError as error:
            found = Counter((one.state.value, one.attempts, one.reason) for one in self._of(case))
            raise AssertionError(f"{error}, but {dict(found)}") from None

    def _delivered(self, case: Case) -> set[str]:
        return {row.sop_instance_uid for row in self._of(case) if row.state is DeliveryState.DELIVERED}

    def _answered(self, node: Node) -> set[str]:
        """Return what the destination said it has."""
        return {one.sop_instance_uid for one in node.proxy.answers if status.outcome(one.status).arrived}

    def _reason(self, case: Case) -> str:
        """Wait until the index says what is wrong, in words, and return them."""
        found: list[str] = []

        def shown() -> bool:
            found[:] = [row.reason for row in self._of(case) if re.match(REASONS[case.fault], row.reason)]
            return bool(found)

        eventually(shown, f"the reason of {case.name} is shown", seconds=SHOWN_SECONDS)
        return found[0]


def mixed(count: int, different: int = OTHERS) -> list[Sample]:
    """Return new instances of one study, the first of another SOP class than the rest."""
    made = samples(count)
    return [_of_other_class(one) for one in made[:different]] + made[different:]


def others(sent: Sequence[Sample]) -> list[Sample]:
    """Return those of the other SOP class."""
    return [one for one in sent if one.outgoing.sop_class_uid == OTHER_CLASS]


def _of_other_class(sample: Sample) -> Sample:
    with sample.outgoing.content() as stream:
        content = stream.read()
    before, after = _sop_class_element(CT), _sop_class_element(OTHER_CLASS)
    assert content.count(before) == 1
    content = content.replace(before, after)
    outgoing = replace(sample.outgoing, sop_class_uid=OTHER_CLASS, content=partial(BytesIO, content))
    return replace(sample, outgoing=outgoing, sha256=sha256(content).hexdigest())


def _sop_class_element(uid: str) -> bytes:
    """Return (0008,0016) in explicit VR little endian."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\x08\x00\x16\x00UI" + len(value).to_bytes(2, "little") + value


def _when(case: Case) -> dict[str, Any]:
    """A slow destination gets a few instances only: it is to get them all while we watch."""
    called = {"association": "calling_aet", "equals": case.aet}
    if case.fault is not Fault.CRAWLS:
        return called
    return {"all": [called, {"attribute": "SOPClassUID", "equals": OTHER_CLASS}]}


@contextmanager
def matrix(stack: RunningStack, folder: Path, cases: Sequence[Case]) -> Iterator[Matrix]:
    """Start the nodes of these cases."""
    made = Matrix(stack, folder)
    try:
        made.open(cases)
        yield made
    finally:
        made.close()
