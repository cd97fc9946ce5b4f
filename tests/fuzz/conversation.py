"""One conversation with the upper layer in memory, made of bytes, and what must be true of it whatever they are."""

import struct
from collections.abc import Callable

from bucky.settings import Settings
from bucky.text.listeners import Listener
from edge_scp.association.limits import AssociationLimits
from edge_scp.association.negotiation import Negotiator
from edge_scp.association.service_user import AcceptedAssociation, Service
from edge_scp.association.sink import Requestor, StoreStatus
from edge_scp.association.states import State
from edge_scp.association.statuses import Status
from edge_scp.association.storage_syntaxes import Syntaxes
from edge_scp.association.store_service import Refusal, StoreCommand
from tests.support.dimse.raw_peer import ABORT, RELEASE_RP, RELEASE_RQ, echo, request, store

LIMITS = AssociationLimits(max_pdu=4096, artim_seconds=10, idle_seconds=20)
SYNTAXES = Syntaxes(Settings())
ACCEPT = request()
# A conversation's first byte: what it begins with, who waits, and how its bytes are cut.
ASSOCIATED, ANSWERS_WAIT, WE_RELEASE = 0x80, 0x40, 0x20


class Violation(AssertionError):
    """The upper layer did what it must never do."""


class Kept:
    """One instance; complains when it is used out of order."""

    def __init__(self, world: "ConversationWorld") -> None:
        self.ended = False
        self._world = world

    def write(self, *fragments: memoryview) -> None:
        """Take fragments."""
        if self.ended:
            raise Violation("a fragment after the end")
        self._world.data_set_bytes += sum(map(len, fragments))

    def finish(self, answered: Callable[[StoreStatus], None]) -> None:
        """Answer now or later."""
        self._end()
        if self._world.answers_wait:
            self._world.waiting.append(answered)
        else:
            answered(StoreStatus(Status.SUCCESS))

    def abandon(self) -> None:
        """End without an answer."""
        self._end()

    def _end(self) -> None:
        if self.ended:
            raise Violation("ended twice")
        self.ended = True


class ConversationWorld:
    """What surrounds one association: transport, sink, metrics and clock."""

    def __init__(self, answers_wait: bool) -> None:
        self.answers_wait = answers_wait
        self.waiting: list[Callable[[StoreStatus], None]] = []
        self.instances: list[Kept] = []
        self.outcomes: list[str] = []
        self.sent = b""
        self.now = 0.0
        self.closed = self.congested = False
        self.data_set_bytes = 0
        self._early = b""
        self._reading = False
        self.user = AcceptedAssociation(
            Service(Listener(), LIMITS, NEGOTIATOR, self, self, lambda: None, lambda: self.now), "127.0.0.1"
        )
        self.user.provider.connected(self)

    def begin(self, _command: StoreCommand, _caller: Requestor) -> Kept:
        """Begin an instance; one at a time."""
        if any(not instance.ended for instance in self.instances) or self.waiting:
            raise Violation("a request before the last was answered")
        self.instances.append(Kept(self))
        return self.instances[-1]

    def refuse(self, command: StoreCommand, _caller: Requestor, refusal: Refusal, received: int) -> Kept:
        """Go on with an instance that the fast path refused; there is none here."""
        raise Violation(f"{command}: {refusal} after {received} bytes")

    def association(self, outcome: str) -> None:
        """Count an outcome."""
        self.outcomes.append(outcome)

    def send(self, data: bytes) -> None:
        """Take what the upper layer says."""
        self.sent += data

    def close(self) -> None:
        """Close."""
        self.closed = True

    abort = close

    def read_on(self) -> None:
        """Receive what was held back."""
        if self._early and not self._reading:
            early, self._early = self._early, b""
            self.receive(early)

    def receive(self, data: bytes) -> None:
        """Let the peer send, as a connection would pass it on."""
        if self._early:
            self._early += data
            return
        self._reading = True
        taken = self.user.provider.received(memoryview(data))
        self._reading = False
        if taken < len(data) and not self.closed:
            self._early = data[taken:]

    def answer(self) -> None:
        """Let the sink answer what waits."""
        waiting, self.waiting = self.waiting, []
        for answered in waiting:
            answered(StoreStatus(Status.OUT_OF_RESOURCES, "full"))

    def pass_time(self, seconds: float) -> None:
        """Let the clock run, with a look at it every half second."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            self.user.tick(self.now)


NEGOTIATOR = Negotiator(SYNTAXES, LIMITS.max_pdu)


def converse(script: bytes) -> ConversationWorld:
    """Hold the conversation that a script describes; raise `Violation` when a rule is broken."""
    flags, size = (script[0], script[1] + 1) if len(script) > 1 else (0, 1)
    world = ConversationWorld(bool(flags & ANSWERS_WAIT))
    if flags & ASSOCIATED:
        world.receive(ACCEPT)
    talk = script[2:]
    for at in range(0, len(talk), size):
        if world.closed:
            break
        world.receive(talk[at : at + size])
        if flags & WE_RELEASE and at // size == flags & 0x0F:
            world.user.release()
        if len(world.waiting) and at % 3 == 0:
            world.answer()
    while world.waiting:
        world.answer()
    world.pass_time(LIMITS.idle_seconds + 2 * LIMITS.artim_seconds + 2)
    _check(world)
    return world


def _check(world: ConversationWorld) -> None:
    if not world.closed or world.user.provider.state is not State.Sta1:
        raise Violation(f"still open in {world.user.provider.state}")
    world.user.provider.lost()
    world.user.disconnected()
    if not all(instance.ended for instance in world.instances):
        raise Violation("an instance was left lying about")
    endings = [outcome for outcome in world.outcomes if outcome != "accepted"]
    if len(endings) != 1 or world.outcomes.count("accepted") > 1:
        raise Violation(f"ended more or less than once: {world.outcomes}")
    at, aborts = 0, 0
    while at < len(world.sent):
        kind, length = struct.unpack_from(">BxI", world.sent, at)
        aborts += kind == 0x07
        at += 6 + length
    if at != len(world.sent) or aborts > 1:
        raise Violation("what was sent are no PDUs, or two aborts")


def seeds() -> list[bytes]:
    """Return conversations that reach every part, to begin with."""
    talks = [echo() + RELEASE_RQ, store(b"data" * 50) + store(b"x") + RELEASE_RQ, ABORT, RELEASE_RP, store(b"y")[:70]]
    made = [
        bytes([ASSOCIATED | flags, size]) + talk for talk in talks for flags in (0, 0x40, 0x21) for size in (7, 255)
    ]
    return [bytes([0, 255]) + ACCEPT + talks[0], bytes([0, 3]) + ACCEPT, *made]
