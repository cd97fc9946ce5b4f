"""A decision about a conflict that ends between any two of its steps: all of it comes true, once, or nothing does."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import Engine, event

from bucky.cloudevents import CloudEvent
from bucky.deciding.correcting import carry_out
from bucky.dicom.part10 import FileMeta, split
from bucky.events import DeliveryRequested, InstanceIndexed, payload_of
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryState, Index
from bucky.log import get_logger
from bucky.routing.corrections import ConflictDecision, Verdict
from bucky.routing.destinations import FolderDestination
from bucky.routing.document import Routing
from bucky.routing.rules import Rule
from bucky.serve.handlers import Context
from bucky.store.objects import MemoryObjectStore
from keeper.bucket_studies import read_decisions
from keeper.conflicts import Conflicts
from keeper.readers import DirectReader
from keeper.reindex import Reindex
from route_instance.handler import handle_batch as route
from tests.support.dicom.sample_instances import SAMPLE
from tests.support.services.keeper_world import indexed, store

pytestmark = pytest.mark.index

CONTEXT = Context("route-instance", get_logger("test"))
CONTENT = SAMPLE.read_bytes()
STUDY, SERIES = str(dcmread(SAMPLE).StudyInstanceUID), str(dcmread(SAMPLE).SeriesInstanceUID)
NAME = b"CompressedSamples^CT1"
PENDING = {DeliveryState.REQUESTED, DeliveryState.RETRYING}
STEPS = ("decide", "put", "redriven", "publish instance", "publish delivery", "carried out")
"""What a decision does, in this order; a verdict that sends nothing, or nothing again, leaves some out."""


class Killed(BaseException):
    """The process ended here; nothing of it catches this."""


@dataclass
class Steps:
    """Counts the steps that were done, and ends the process before one of them."""

    dies_before: str = ""
    done: list[str] = field(default_factory=list)

    def come_to(self, step: str) -> None:
        """Die here, or go on."""
        if step == self.dies_before:
            raise Killed(step)
        self.done.append(step)


@dataclass
class Stream:
    """A publisher to streams that forget at once which events they had, as after their window for duplicates."""

    steps: Steps
    waiting: list[CloudEvent] = field(default_factory=list)

    async def publish(self, event: CloudEvent) -> None:
        """Keep an event."""
        self.steps.come_to("publish instance" if event.type == InstanceIndexed.TYPE else "publish delivery")
        self.waiting.append(event)


class World:
    """Two files of one instance that conflict, what decides about them, and a destination that takes what is sent."""

    def __init__(self, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
        self.index, self.objects, self.steps = index, MemoryObjectStore(), Steps()
        self.stream = Stream(self.steps)
        self.arrived: list[str] = []
        for target, name, step in (
            (self.index, "decide", "decide"),
            (self.index, "redriven", "redriven"),
            (self.index, "decision_carried_out", "carried out"),
        ):
            monkeypatch.setattr(target, name, self._counted(step, getattr(target, name)))
        destination = FolderDestination(name="pacs", type="folder", folder=Path("/nonexistent"))
        everything = Rule.model_validate({"name": "all", "when": {}, "destinations": ["pacs"]})
        document = {"destinations": [destination.model_dump()], "rules": [everything.model_dump(by_alias=True)]}
        index.save_routing(Routing.model_validate(document), index.routing().version, "test")
        self.first, self.second = self.came(CONTENT), self.came(CONTENT.replace(NAME, b"CorrectedTheNames^CT1"))
        self.hear(self.first)
        self.catch_up()
        assert self.arrived == [self.first]
        self.before = dict(self.kept("studies/"))
        monkeypatch.setattr(self.objects, "put", self._counted("put", self.objects.put))

    def _counted(self, step: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.steps.come_to(step)
            return work(*args)

        return counted

    def came(self, content: bytes) -> str:
        """Have a file stored and indexed; return its digest."""
        meta, offset = split(content)
        sent = FileMeta(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, "CT1", "BUCKY")
        stored = store(self.objects, content[offset:], sent, STUDY, SERIES)
        indexed(self.objects, self.index, [stored])
        return stored.sha256

    def hear(self, sha256: str) -> None:
        """Have the event that says an instance is indexed wait in the stream."""
        received = self.index.instance(sha256).received()
        self.stream.waiting.append(CloudEvent.of(InstanceIndexed(**received.model_dump()), source="/test"))

    def kept(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Iterate over the objects under a prefix."""
        return ((one.key, self.objects.get(one.key)) for one in self.objects.listing(prefix))

    def catch_up(self) -> None:
        """Route and send what waits in the streams, as the functions do."""
        waiting, self.stream.waiting[:] = list(self.stream.waiting), []
        for one in waiting:
            payload = payload_of(one)
            if isinstance(payload, InstanceIndexed):
                self._send(*route([one], CONTEXT, self.index).events)
            else:
                self._send(one)

    def _send(self, *requests: CloudEvent) -> None:
        for one in requests:
            payload = payload_of(one)
            assert isinstance(payload, DeliveryRequested)
            if self.index.delivery(payload.delivery_id).state in PENDING:
                self.index.delivery_attempted([DeliveryAttempt(payload.delivery_id, AttemptOutcome.DELIVERED)])
                self.arrived.append(payload.instance.sha256)

    def give(self, verdict: Verdict) -> ConflictDecision:
        """Decide about the second bytes and carry it out, as the command does."""
        decision = self.index.decide(self.second, verdict, "me", "why")
        asyncio.run(carry_out(decision, self.index, self.objects, self.stream, "/test"))
        return decision

    def look(self) -> int:
        """Have the keeper look for what was begun; return what it carried out."""
        return asyncio.run(Conflicts(self.index, self.objects, self.stream, timedelta(0)).run())

    def die_before(self, step: str, verdict: Verdict) -> bool:
        """Give a command and die before one of its steps; return whether it came to it."""
        self.steps.dies_before = step
        try:
            self.give(verdict)
        except Killed:
            return True
        finally:
            self.steps.dies_before = ""
        return False

    @property
    def current(self) -> str:
        """The digest of the bytes that are current."""
        found = self.index.current_instance(self.index.instance(self.first).sop_instance_uid)
        assert found is not None
        return found.sha256


@pytest.fixture
def world(index: Index, monkeypatch: pytest.MonkeyPatch) -> World:
    """A conflict whose first bytes were delivered, and nothing decided."""
    return World(index, monkeypatch)


@dataclass(frozen=True)
class Case:
    """What is decided after what, which of the bytes are current in the end, and which arrive because of it."""

    before: tuple[Verdict, ...]
    verdict: Verdict
    current: str
    arrive: tuple[str, ...]
    steps: tuple[str, ...]


WITHOUT_DELIVERY = tuple(step for step in STEPS if step != "publish delivery")
QUIETLY = ("decide", "put", "carried out")
A, R, U = Verdict.ACCEPTED, Verdict.REJECTED, Verdict.REOPENED
CASES = {
    "accept": Case((), A, "second", ("second",), WITHOUT_DELIVERY),
    "reject": Case((), R, "first", (), QUIETLY),
    "undo of accept": Case((A,), U, "first", ("first",), STEPS),
    "undo of reject": Case((R,), U, "first", (), QUIETLY),
    "accept again": Case((A, U), A, "second", ("second",), STEPS),
}
KILLS = [pytest.param(case, step, id=f"{name}-{step}") for name, case in CASES.items() for step in case.steps]


@pytest.mark.parametrize("name", CASES)
def test_the_steps_are_those_that_are_killed_between(world: World, name: str) -> None:
    """A step that is added to a decision is noticed here, and gets a kill of its own below."""
    case = CASES[name]
    for earlier in case.before:
        world.give(earlier)
        world.catch_up()
    world.steps.done.clear()
    world.give(case.verdict)
    assert tuple(world.steps.done) == case.steps


@pytest.mark.parametrize("finisher", ["the keeper", "the command again"])
@pytest.mark.parametrize("meanwhile", [False, True], ids=["nothing meanwhile", "what was published is done meanwhile"])
@pytest.mark.parametrize(("case", "step"), KILLS)
def test_a_decision_that_was_cut_off_comes_true_once(
    world: World, case: Case, step: str, finisher: str, meanwhile: bool
) -> None:
    """Nothing is lost, no half of a decision stays, and the bytes that became current are sent once."""
    for earlier in case.before:
        world.give(earlier)
        world.catch_up()
    world.arrived.clear()
    number = len(world.index.decisions())
    assert world.die_before(step, case.verdict)
    if meanwhile:
        world.catch_up()
    begun = len(world.index.decisions()) > number
    assert begun == (step != "decide")
    if finisher == "the keeper":
        assert world.look() == int(begun)
    if finisher == "the command again" or not begun:
        world.give(case.verdict)
    world.catch_up()
    assert world.look() == 0
    world.give(case.verdict)
    world.catch_up()
    names = {"first": world.first, "second": world.second}
    assert world.current == names[case.current]
    assert world.arrived == [names[one] for one in case.arrive]
    made = world.index.decisions()
    assert len(made) == number + 1
    assert sorted(read_decisions(world.objects), key=lambda one: one.number) == sorted(made, key=lambda one: one.number)
    assert dict(world.kept("studies/")) == world.before
    assert not [row for row in world.index.deliveries_of([world.first, world.second]) if row.state in PENDING]
    assert world.index.miscounted_studies() == []


def test_a_decision_that_ends_within_its_transaction_was_never_made(world: World) -> None:
    """Before each statement of it, and before its end: all is as it was, and the command can be given again."""
    study = world.index.study(STUDY)
    left = 0

    def count_down(*_args: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    made, tried = False, 0
    while not made:
        left = tried
        event.listen(Engine, "before_cursor_execute", count_down)
        event.listen(Engine, "commit", count_down)
        try:
            world.index.decide(world.second, Verdict.ACCEPTED, "me", "")
            made = True
        except Killed:
            tried += 1
        finally:
            event.remove(Engine, "before_cursor_execute", count_down)
            event.remove(Engine, "commit", count_down)
        if not made:
            assert (world.current, world.index.decisions(), world.index.study(STUDY)) == (world.first, [], study)
    assert tried > len(STEPS)
    assert world.look() == 1
    world.catch_up()
    assert (world.current, world.arrived) == (world.second, [world.first, world.second])


@pytest.mark.parametrize("step", CASES["accept"].steps[1:])
def test_an_acceptance_that_was_cut_off_can_be_undone(world: World, step: str) -> None:
    """Whatever of it was done: the first bytes are current, and nothing of the others comes after them."""
    assert world.die_before(step, Verdict.ACCEPTED)
    world.give(Verdict.REOPENED)
    world.look()
    world.catch_up()
    assert world.current == world.first
    assert world.second not in world.arrived
    assert [one.verdict for one in read_decisions(world.objects)] == [Verdict.ACCEPTED, Verdict.REOPENED]


def test_bytes_that_were_set_aside_before_they_were_routed_are_not_sent(world: World) -> None:
    """An event that waited while a decision was made must not bring the wrong bytes behind the right ones."""
    world.hear(world.first)
    world.index.save_routing(world.index.routing().document, world.index.routing().version, "test")
    world.give(Verdict.ACCEPTED)
    world.catch_up()
    assert world.arrived == [world.first, world.second]


@pytest.mark.parametrize("step", CASES["accept"].steps[1:])
def test_an_index_that_is_rebuilt_meanwhile_decides_the_same(world: World, step: str) -> None:
    """Rebuilt between two steps, the index keeps the decision, and the keeper still does the rest."""
    assert world.die_before(step, Verdict.ACCEPTED)
    Reindex(world.objects, world.index, "bucky", DirectReader(world.objects, "bucky")).run()
    assert world.current == world.second
    assert world.look() == 1
    world.catch_up()
    assert world.arrived == [world.first, world.second]
