"""Every state and event that an acceptor can meet (PS3.8 Table 9-10), and what then leaves the provider."""

import struct

import pytest
from pynetdicom.fsm import TRANSITION_TABLE

from edge_scp.association import pdu
from edge_scp.association.limits import AssociationLimits
from edge_scp.association.provider import UpperLayerProvider
from edge_scp.association.states import TABLE, State

RQ, AC, RJ = (
    b"\x01\0\0\0\0\x44" + struct.pack(">H", 1) + bytes(66),
    b"\x02\0\0\0\0\x02ab",
    b"\x03\0\0\0\0\x04" + bytes(4),
)
DATA = b"\x04\0\0\0\0\x08\0\0\0\x04\x01\x03hi"
RELEASE_RQ, RELEASE_RP = b"\x05\0\0\0\0\x04" + bytes(4), b"\x06\0\0\0\0\x04" + bytes(4)
ABORT, UNKNOWN, INVALID = b"\x07\0\0\0\0\x04" + bytes(4), b"\x08\0\0\0\0\x01x", b"\x05\0\0\0\0\x05" + bytes(5)
PDUS = {"AC": AC, "RJ": RJ, "RQ": RQ, "DATA": DATA, "RELEASE-RQ": RELEASE_RQ, "RELEASE-RP": RELEASE_RP, "?": UNKNOWN}

USER_ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"


def provider_abort(reason: int) -> bytes:
    """Return the A-ABORT of a service provider."""
    return b"\x07\0\0\0\0\x04\0\0\x02" + bytes([reason])


class FakeTransport:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.congested = False
        self.sent: list[bytes] = []
        self.did: list[str] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def read_on(self) -> None:
        pass

    def close(self) -> None:
        self.did.append("close")

    def abort(self) -> None:
        self.did.append("abort")


class FakeUser:
    """Keeps what is indicated, and answers nothing by itself."""

    def __init__(self) -> None:
        self.busy = False
        self.told: list[str] = []
        self.data = b""

    def associate_indicated(self, _request: bytes) -> None:
        self.told.append("associate")

    def data_indicated(self, _context_id: int, _control: int, piece: memoryview, _ends: bool) -> None:
        self.data += piece

    def release_indicated(self) -> None:
        self.told.append("release")

    def release_confirmed(self) -> None:
        self.told.append("released")

    def aborted(self, reason: str) -> None:
        self.told.append(f"aborted {reason}")


class Scene:
    """A provider brought to a state by the shortest way there."""

    def __init__(self, state: State = State.Sta2) -> None:
        self.now = 100.0
        self.transport, self.user = FakeTransport(), FakeUser()
        self.provider = UpperLayerProvider(self.user, AssociationLimits(artim_seconds=10), lambda: self.now)
        self.provider.connected(self.transport)
        if state is State.Sta13:
            self.receive(RELEASE_RP)
        elif state is not State.Sta2:
            self.receive(RQ)
            if state is not State.Sta3:
                self.provider.accept(b"AC")
        if state in {State.Sta7, State.Sta10, State.Sta12}:
            self.provider.release()
        if state in {State.Sta8, State.Sta10, State.Sta12}:
            self.receive(RELEASE_RQ)
        if state is State.Sta12:
            self.receive(RELEASE_RP)
        assert self.provider.state is state
        self.transport.sent.clear()
        self.user.told.clear()

    def receive(self, data: bytes) -> int:
        """Let the peer send."""
        return self.provider.received(memoryview(data))

    @property
    def state(self) -> State:
        """Return the present state."""
        return self.provider.state


def test_the_table_is_the_standards() -> None:
    """Each row an acceptor can meet has the action that pynetdicom's copy of Table 9-10 has, and there is no other."""
    ours = {
        (event.name, state.name): action.name for state, events in TABLE.items() for event, action in events.items()
    }
    requestors = {"Sta4", "Sta5", "Sta9", "Sta11"}
    theirs = {
        (event, state): action
        for (event, state), action in TRANSITION_TABLE.items()
        if state not in requestors and event not in {"Evt1", "Evt2"}
    }
    assert ours == {key: action.replace("-", "_") for key, action in theirs.items()}


def test_a_connection_starts_artim_and_its_end_closes_it() -> None:
    """Sta1, Evt5: AE-5; Sta2, Evt18: AA-2. A connection that says nothing is closed without a word."""
    scene = Scene()
    scene.provider.tick(109.9)
    assert scene.state is State.Sta2
    scene.provider.tick(110.0)
    assert (scene.state, scene.transport.did, scene.transport.sent) == (State.Sta1, ["abort"], [])


@pytest.mark.parametrize("name", ["AC", "RJ", "DATA", "RELEASE-RQ", "RELEASE-RP", "?"])
def test_anything_but_a_request_first_is_aborted(name: str) -> None:
    """Sta2, Evt3, 4, 10, 12, 13, 19: AA-1. Whoever does not begin with A-ASSOCIATE-RQ is aborted."""
    scene = Scene()
    scene.receive(PDUS[name])
    assert (scene.state, scene.transport.sent) == (State.Sta13, [USER_ABORT])
    assert scene.user.told == []
    scene.provider.tick(110.0)
    assert scene.transport.did == ["abort"]


def test_an_abort_before_a_request_closes() -> None:
    """Sta2, Evt16: AA-2."""
    scene = Scene()
    scene.receive(ABORT)
    assert (scene.state, scene.transport.did, scene.transport.sent) == (State.Sta1, ["abort"], [])


def test_a_connection_lost_before_a_request_is_over() -> None:
    """Sta2, Evt17: AA-5; ARTIM is stopped."""
    scene = Scene()
    scene.provider.lost()
    scene.provider.tick(1000.0)
    assert (scene.state, scene.user.told, scene.transport.did) == (State.Sta1, [], [])


def test_a_request_is_indicated_and_stops_artim() -> None:
    """Sta2, Evt6: AE-6, to Sta3."""
    scene = Scene()
    scene.receive(RQ)
    scene.provider.tick(1000.0)
    assert (scene.state, scene.user.told) == (State.Sta3, ["associate"])


def test_another_protocol_version_is_rejected_by_the_provider() -> None:
    """Sta2, Evt6: AE-6, to Sta13. Only bit 0 counts: a version 1 among others is accepted."""
    scene = Scene()
    scene.receive(RQ[:6] + struct.pack(">H", 0xFFFE) + RQ[8:])
    assert (scene.state, scene.user.told) == (State.Sta13, [])
    assert scene.transport.sent == [b"\x03\0\0\0\0\x04\0\x01\x02\x02"]
    several = Scene()
    several.receive(RQ[:6] + struct.pack(">H", 0x0003) + RQ[8:])
    assert several.state is State.Sta3


def test_the_users_answers_to_a_request() -> None:
    """Sta3, Evt7: AE-7, to Sta6. Sta3, Evt8: AE-8, to Sta13 with ARTIM."""
    accepted, rejected = Scene(State.Sta3), Scene(State.Sta3)
    accepted.provider.accept(b"the reply")
    assert (accepted.state, accepted.transport.sent) == (State.Sta6, [b"the reply"])
    rejected.provider.reject(1, 1, 7)
    assert (rejected.state, rejected.transport.sent) == (State.Sta13, [b"\x03\0\0\0\0\x04\0\x01\x01\x07"])
    rejected.provider.tick(110.0)
    assert rejected.transport.did == ["abort"]


ESTABLISHED = [
    State.Sta3,
    State.Sta6,
    State.Sta7,
    State.Sta8,
    State.Sta10,
    State.Sta12,
]
EXPECTED_THERE = {
    State.Sta3: set(),
    State.Sta6: {"DATA", "RELEASE-RQ"},
    State.Sta7: {"DATA", "RELEASE-RQ", "RELEASE-RP"},
    State.Sta8: set(),
    State.Sta10: {"RELEASE-RP"},
    State.Sta12: set(),
}


@pytest.mark.parametrize("state", ESTABLISHED, ids=lambda state: state.name)
def test_pdus_out_of_turn_abort_with_the_reason(state: State) -> None:
    """AA-8: what may not come now ends the association; both the peer and the user are told."""
    for name in PDUS.keys() - EXPECTED_THERE[state]:
        scene = Scene(state)
        scene.receive(PDUS[name])
        reason = pdu.UNRECOGNIZED_PDU if name == "?" else pdu.UNEXPECTED_PDU
        assert (scene.state, scene.transport.sent) == (State.Sta13, [provider_abort(reason)]), name
        assert [told.split()[0] for told in scene.user.told] == ["aborted"]
        scene.provider.tick(110.0)
        assert scene.transport.did == ["abort"]


@pytest.mark.parametrize("state", ESTABLISHED, ids=lambda state: state.name)
def test_an_invalid_pdu_aborts(state: State) -> None:
    """Evt19: AA-8 with reason invalid-PDU-parameter; what follows is not guessed at."""
    scene = Scene(state)
    scene.receive(INVALID + RELEASE_RQ)
    scene.receive(RQ)
    assert (scene.state, scene.transport.sent) == (State.Sta13, [provider_abort(pdu.INVALID_PDU_PARAMETER)])


@pytest.mark.parametrize("state", ESTABLISHED, ids=lambda state: state.name)
def test_aborts_and_losses_are_indicated(state: State) -> None:
    """Evt15: AA-1. Evt16: AA-3. Evt17: AA-4."""
    ours, theirs, lost = Scene(state), Scene(state), Scene(state)
    ours.provider.abort()
    assert (ours.state, ours.transport.sent) == (State.Sta13, [USER_ABORT])
    theirs.receive(ABORT)
    assert (theirs.state, theirs.user.told, theirs.transport.did) == (
        State.Sta1,
        ["aborted by the peer"],
        ["close"],
    )
    lost.provider.lost()
    assert (lost.state, lost.user.told) == (State.Sta1, ["aborted connection lost"])


def test_data_in_both_directions() -> None:
    """Sta6, Evt9: DT-1. Sta6, Evt10: DT-2."""
    scene = Scene(State.Sta6)
    scene.receive(DATA)
    scene.provider.send_data(b"data")
    assert (scene.state, scene.user.data, scene.transport.sent) == (State.Sta6, b"hi", [b"data"])


def test_a_release_by_the_peer() -> None:
    """Sta6, Evt12: AR-2. Sta8, Evt9: AR-7. Sta8, Evt14: AR-4. Sta13, Evt17: AR-5."""
    scene = Scene(State.Sta6)
    scene.receive(RELEASE_RQ)
    assert (scene.state, scene.user.told) == (State.Sta8, ["release"])
    scene.provider.send_data(b"the last response")
    scene.provider.answer_release()
    assert (scene.state, scene.transport.sent) == (State.Sta13, [b"the last response", RELEASE_RP])
    scene.provider.lost()
    scene.provider.tick(1000.0)
    assert (scene.state, scene.transport.did) == (State.Sta1, [])


def test_a_peer_that_does_not_close_after_release_is_closed() -> None:
    """Sta13, Evt18: AA-2."""
    scene = Scene(State.Sta8)
    scene.provider.answer_release()
    scene.provider.tick(110.0)
    assert (scene.state, scene.transport.did) == (State.Sta1, ["abort"])


def test_a_release_by_us() -> None:
    """Sta6, Evt11: AR-1. Sta7, Evt10: AR-6. Sta7, Evt13: AR-3."""
    scene = Scene(State.Sta6)
    scene.provider.release()
    assert (scene.state, scene.transport.sent) == (State.Sta7, [RELEASE_RQ])
    scene.receive(DATA)
    assert (scene.state, scene.user.data) == (State.Sta7, b"")
    scene.receive(RELEASE_RP)
    assert (scene.state, scene.user.told, scene.transport.did) == (State.Sta1, ["released"], ["close"])


@pytest.mark.parametrize("cut", range(len(DATA)))
def test_a_release_by_us_within_a_pdu(cut: int) -> None:
    """What is left of a P-DATA-TF when we ask for release is not indicated, and the peer's answer is understood."""
    scene = Scene(State.Sta6)
    scene.receive(DATA[:cut])
    indicated = scene.user.data
    scene.provider.release()
    scene.receive(DATA[cut:] + RELEASE_RP)
    assert (scene.state, scene.user.data) == (State.Sta1, indicated)


def test_a_release_collision() -> None:
    """Sta7, Evt12: AR-8. Sta10, Evt13: AR-10. Sta12, Evt14: AR-4. The acceptor answers last."""
    scene = Scene(State.Sta7)
    scene.receive(RELEASE_RQ)
    assert (scene.state, scene.user.told, scene.transport.sent) == (State.Sta10, [], [])
    scene.receive(RELEASE_RP)
    assert (scene.state, scene.user.told) == (State.Sta12, ["release"])
    scene.provider.answer_release()
    assert (scene.state, scene.transport.sent) == (State.Sta13, [RELEASE_RP])


@pytest.mark.parametrize("name", ["AC", "RJ", "DATA", "RELEASE-RQ", "RELEASE-RP"])
def test_when_it_is_over_pdus_are_ignored(name: str) -> None:
    """Sta13, Evt3, 4, 10, 12, 13: AA-6."""
    scene = Scene(State.Sta13)
    scene.receive(PDUS[name] * 3)
    assert (scene.state, scene.transport.sent) == (State.Sta13, [])


def test_when_it_is_over_requests_and_garbage_are_answered_once() -> None:
    """Sta13, Evt6 and Evt19: AA-7, but one A-ABORT is enough for a peer that goes on and on."""
    scene = Scene(State.Sta6)
    scene.receive(RELEASE_RQ)
    scene.provider.answer_release()
    scene.transport.sent.clear()
    scene.receive((RQ + UNKNOWN) * 100)
    assert scene.transport.sent == [provider_abort(pdu.UNEXPECTED_PDU)]
    scene.receive(ABORT)
    assert (scene.state, scene.transport.did) == (State.Sta1, ["abort"])


@pytest.mark.parametrize("cut", range(1, len(DATA)))
def test_an_abort_of_ours_within_a_pdu_does_not_lose_the_thread(cut: int) -> None:
    """Wherever in a P-DATA-TF it is aborted, the peer's own A-ABORT after it is still understood (Sta13, Evt16)."""
    scene = Scene(State.Sta6)
    scene.receive(DATA[:cut])
    scene.provider.abort()
    scene.receive(DATA[cut:] + ABORT)
    assert scene.state is State.Sta1


@pytest.mark.parametrize("state", [*ESTABLISHED, State.Sta2, State.Sta13], ids=lambda state: state.name)
def test_an_abort_is_understood_at_any_byte(state: State) -> None:
    """Evt16, its bytes arriving one by one."""
    scene = Scene(state)
    for at in range(len(ABORT)):
        assert scene.state is state
        scene.receive(ABORT[at : at + 1])
    assert scene.state is State.Sta1


def test_lengths_are_checked_before_anything_is_kept() -> None:
    """A P-DATA-TF longer than advertised and an A-ASSOCIATE-RQ longer than any are refused by their headers."""
    established, fresh = Scene(State.Sta6), Scene()
    established.receive(b"\x04\0" + struct.pack(">I", AssociationLimits().max_pdu + 1))
    assert established.transport.sent == [provider_abort(pdu.INVALID_PDU_PARAMETER)]
    fresh.receive(b"\x01\0" + struct.pack(">I", AssociationLimits().max_associate + 1))
    assert (fresh.state, fresh.transport.sent) == (State.Sta13, [USER_ABORT])


@pytest.mark.parametrize(
    "wrong",
    [b"\x09\0\0\0\0\x04" + bytes(4), b"\x01\0\0\0\0\x44" + bytes(68), b"\x05\0\0\0\0\x05" + bytes(5)],
    ids=["unrecognized", "unexpected", "invalid"],
)
def test_a_busy_user_answers_before_what_is_wrong_next(wrong: bytes) -> None:
    """While an answer is awaited a PDU that aborts the association waits: the answer is sent before the abort."""
    scene = Scene(State.Sta6)
    scene.user.busy = True
    taken = scene.receive(wrong)
    assert (scene.state, scene.transport.sent) == (State.Sta6, [])
    scene.user.busy = False
    scene.receive(wrong[taken:])
    assert scene.state is State.Sta13
    assert len(scene.transport.sent) == 1


def test_a_busy_user_holds_data_but_not_release_or_abort() -> None:
    """While an answer is awaited the next P-DATA-TF waits, unread; A-RELEASE-RQ and A-ABORT do not."""
    scene = Scene(State.Sta6)
    scene.user.busy = True
    assert scene.receive(DATA) == 6
    scene.user.busy = False
    assert scene.receive(DATA[6:]) == len(DATA) - 6
    assert scene.user.data == b"hi"
    scene.user.busy = True
    scene.receive(RELEASE_RQ)
    assert scene.state is State.Sta8
