"""Who gets a place, and who gives way: silent connections keep nobody out, and bursts hear that they are too many."""

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from bucky.settings import Settings
from bucky.text.listeners import Listener
from edge_scp.process.connections import Admission, Connections, Handling


class Port:
    """A listener's count, as its port and receivers drive it; `now` is in seconds, and ARTIM is 15."""

    def __init__(self, most: int = 100, per_peer: int = 80, network: str = "10.0.0.0/8") -> None:
        self.now = 1000.0
        settings = Settings(edge_max_associations=most, edge_max_associations_per_peer=per_peer)
        listener = Listener.model_validate({"port": 0, "allow_networks": [network]})
        self.connections = Connections(listener, settings, lambda: self.now)
        self.open: dict[int, str] = {}
        self._numbers = itertools.count()

    def arrives(self, address: str) -> Admission:
        """Accept a connection."""
        admission = self.connections.admission(address)
        if admission.evicted is not None:
            self.connections.evicted(admission.evicted)
            self.closes(admission.evicted)
        if admission.verdict is not Handling.DROP:
            number = next(self._numbers)
            self.connections.opened(number, address, admission.verdict)
            self.open[number] = address
        return admission

    def associates(self, address: str) -> Handling:
        """Accept a connection and its association."""
        verdict = self.arrives(address).verdict
        if verdict is Handling.SERVE:
            self.connections.associated(max(self.open), address, is_now=True)
        return verdict

    def closes(self, number: int, *, stored: bool = False) -> None:
        """End a connection."""
        self.connections.closed(number, self.open.pop(number), stored=stored)

    def knows(self, addresses: Iterable[str]) -> None:
        """Have addresses store something."""
        for address in addresses:
            assert self.associates(address) is Handling.SERVE
            self.closes(max(self.open), stored=True)


def test_two_silent_addresses_keep_nobody_out() -> None:
    """However many connections they open, each caller gets a place at once, and theirs are the ones that go."""
    port = Port()
    for _ in range(80):
        port.arrives("10.0.0.1")
        port.arrives("10.0.0.2")
    assert port.connections.serving == 100
    for caller in range(90):
        verdict, evicted = port.arrives(f"10.1.0.{caller}")
        assert verdict is Handling.SERVE
        assert evicted is not None
        port.connections.associated(max(port.open), f"10.1.0.{caller}", is_now=True)
    assert port.connections.serving == 100
    assert sum(address.startswith("10.1.") for address in port.open.values()) == 90


def test_the_oldest_of_the_greediest_gives_way() -> None:
    """Not a quick one of somebody else, although it is older."""
    port = Port(most=20, per_peer=15)
    port.arrives("10.0.0.3")
    for _ in range(12):
        port.arrives("10.0.0.1")
    for _ in range(7):
        port.arrives("10.0.0.2")
    assert port.arrives("10.0.0.4") == (Handling.SERVE, 1)
    assert port.arrives("10.0.0.5") == (Handling.SERVE, 2)


def test_a_flood_does_not_push_out_a_caller_that_is_slow() -> None:
    """A caller that takes its time keeps its place while an address with many opens ever more of them."""
    port = Port(most=20, per_peer=20)
    port.arrives("10.0.0.3")
    for _ in range(200):
        port.arrives("10.0.0.1")
        port.now += 1
    assert port.open[0] == "10.0.0.3"


def test_a_burst_is_told_that_it_is_too_many() -> None:
    """Callers that come all at once are answered: none is closed for the next before it could say a word."""
    port = Port(most=20, per_peer=20)
    from_one = [port.arrives("10.0.0.1") for _ in range(25)]
    assert from_one == [Admission(Handling.SERVE)] * 20 + [Admission(Handling.REJECT)] * 5
    port = Port(most=20, per_peer=20)
    from_many = [port.arrives(f"10.0.0.{caller}") for caller in range(25)]
    assert from_many == from_one


def test_half_open_connections_of_a_callers_own_give_way_to_it() -> None:
    """A modality whose connections a firewall forgot gets in again before ARTIM ends each of them."""
    port = Port(per_peer=3)
    for _ in range(3):
        port.arrives("10.0.0.1")
    assert port.arrives("10.0.0.1") == (Handling.REJECT, None)
    port.now += 5
    assert port.arrives("10.0.0.1") == (Handling.SERVE, 0)


def test_associations_do_not_give_way() -> None:
    """Whoever has an association keeps it; a connection whose association is over is silent like any other."""
    port = Port(most=2, per_peer=2)
    assert [port.associates("10.0.0.1"), port.associates("10.0.0.1")] == [Handling.SERVE] * 2
    port.now += 1000
    assert port.arrives("10.0.0.2") == (Handling.REJECT, None)
    port.connections.associated(0, "10.0.0.1", is_now=False)
    port.now += 5
    assert port.arrives("10.0.0.2") == (Handling.SERVE, 0)


def test_known_callers_have_places_of_their_own() -> None:
    """When associations of others fill the listener, those that stored before still get in, a few connections each."""
    port = Port()
    port.knows(["10.0.0.9", "10.0.0.1"])
    assert [port.associates("10.0.0.1") for _ in range(81)] == [Handling.SERVE] * 80 + [Handling.REJECT]
    assert [port.associates("10.0.0.2") for _ in range(21)] == [Handling.SERVE] * 20 + [Handling.REJECT]
    assert [port.associates("10.0.0.9") for _ in range(5)] == [Handling.SERVE] * 4 + [Handling.REJECT]
    assert port.associates("10.0.0.1") is Handling.REJECT


def test_a_known_caller_with_few_keeps_its_silent_connections() -> None:
    """A known caller on a slow line does not give way to strangers."""
    port = Port(most=4, per_peer=4)
    port.knows(["10.0.0.9"])
    port.arrives("10.0.0.9")
    for stranger in range(3):
        port.arrives(f"10.0.1.{stranger}")
    port.now += 1000
    assert [port.arrives(f"10.0.2.{stranger}").evicted for stranger in range(3)] == [2, 3, 4]
    assert "10.0.0.9" in port.open.values()


def test_few_addresses_are_remembered() -> None:
    """Ever new addresses cost no memory without bound."""
    port = Port()
    port.knows(f"10.{a}.{b}.1" for a in range(10) for b in range(200))
    assert len(port.connections._known) == 1024
    assert "10.9.199.1" in port.connections._known


def test_strangers_to_the_network_take_no_place() -> None:
    """Nobody gives way to a connection that would be rejected, and only so many of those wait for their answer."""
    port = Port(1, 1, "10.0.0.0/24")
    port.arrives("10.0.0.1")
    port.now += 1000
    verdicts = [port.arrives("192.168.0.1") for _ in range(40)]
    assert verdicts == [Admission(Handling.REJECT)] * 32 + [Admission(Handling.DROP)] * 8
    assert port.connections.serving == 1


def test_an_association_accepted_while_it_was_to_give_way_counts() -> None:
    """The receiver lets it be; the place it has all the same is given back once."""
    port = Port(most=1, per_peer=1)
    port.arrives("10.0.0.1")
    port.now += 1000
    evicted = port.connections.admission("10.0.0.2").evicted
    assert evicted == 0
    port.connections.evicted(0)
    port.connections.opened(7, "10.0.0.2", Handling.SERVE)
    port.connections.associated(0, "10.0.0.1", is_now=True)
    assert port.connections.serving == 2
    port.connections.closed(0, "10.0.0.1")
    port.connections.closed(7, "10.0.0.2")
    assert port.connections.serving == 0
    assert not port.connections._held


steps = st.lists(st.tuples(st.sampled_from(["arrive", "associate", "over", "close", "wait"]), st.integers(0, 7)))


@given(steps, st.integers(1, 8), st.integers(1, 8))
def test_the_count_is_right_whatever_happens(happens: list[tuple[str, int]], most: int, per_peer: int) -> None:
    """No more are served than may be, no address has more than it may, and in the end every place is free."""
    port = Port(most, per_peer)
    for what, which in happens:
        numbers = sorted(port.open)
        number = numbers[which % len(numbers)] if numbers else None
        if what == "arrive":
            port.arrives(f"10.0.0.{which}")
        elif what == "wait":
            port.now += which
        elif number is not None and what == "close":
            port.closes(number, stored=which % 2 == 0)
        elif number is not None:
            port.connections.associated(number, port.open[number], is_now=what == "associate")
        assert port.connections.serving <= most + 4
        assert max(port.connections._held.values(), default=0) <= per_peer
        assert sum(port.connections._held.values()) == port.connections.serving
    for number in list(port.open):
        port.closes(number)
    assert port.connections.serving == 0
    assert not port.connections._held
    assert not port.connections._rejecting
