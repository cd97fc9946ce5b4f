"""Peers that stall, drip, flood and lie: the slot is freed, memory is bounded, and others are served meanwhile."""

import gc
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.dimse.raw_peer import RELEASE_RQ, STORE_ID, RawPeer, echo, request, store, values
from tests.support.edge.upper_layer_world import UpperLayerWorld, stage
from tests.support.waiting import PATIENCE, eventually

USER_ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"
INVALID = b"\x07\0\0\0\0\x04\0\0\x02\x06"
SHORT: dict[str, Any] = {"artim_seconds": 1.0, "idle_seconds": 1.2}


def others_are_served(upper: UpperLayerWorld) -> None:
    """An honest peer stores and releases as if it were alone."""
    with RawPeer(upper.port).associate() as peer:
        peer.send(store(b"honest"))
        assert peer.stored() == (1, 0, "")
        peer.send(RELEASE_RQ)
        assert peer.receive()[0] == 0x06


def keep_sending(peer: RawPeer, data: bytes) -> None:
    """Send the same again and again, for as long as it is taken."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        peer.send(data)


@pytest.mark.parametrize(
    "opening",
    [
        b"",
        b"\x01",
        b"\x01\0\0\0\x01\0",
        request()[:-1],
        struct.pack(">BxI", 1, 300_000_000) + bytes(1000),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        struct.pack(">BxI", 4, 4) + bytes(4),
    ],
    ids=["nothing", "one byte", "a header", "all but one byte", "300 MB announced", "HTTP", "TLS", "data first"],
)
def test_connections_that_lead_nowhere_are_closed(opening: bytes) -> None:
    """Without a whole A-ASSOCIATE-RQ within ARTIM a connection is closed, whatever it began with."""
    with stage(**SHORT) as upper, RawPeer(upper.port) as stranger:
        stranger.send(opening)
        others_are_served(upper)
        answer = stranger.receive()
        assert answer in {b"", USER_ABORT}
        assert not answer or stranger.closed()
        eventually(lambda: upper.connections == 0, "the slot is free")
    assert upper.outcomes.counts["failed"] == 1


@pytest.mark.parametrize(
    "prelude",
    [b"", b"\x04", store(b"x" * 100)[:20], store(b"x" * 100)[:12], store(b"x" * 5000)[:-2000]],
    ids=["nothing", "a PDU header", "a command", "a value header", "a data set"],
)
@pytest.mark.parametrize("drip", [False, True], ids=["stalled", "dripping"])
def test_associations_that_do_not_go_on_are_aborted(prelude: bytes, drip: bool) -> None:
    """A peer that stops, or sends a byte now and then, anywhere in a message is aborted and its slot freed."""
    rest = store(b"x" * 5000)[len(prelude) :]
    with stage(**SHORT) as upper, RawPeer(upper.port).associate() as slow:
        slow.send(prelude)
        slow.socket.settimeout(0.05)
        began, received, at = time.monotonic(), b"", 0
        while not received:
            assert time.monotonic() - began < PATIENCE
            if drip:
                slow.send(rest[at : at + 1])
                at += 1
            try:
                received = slow.socket.recv(100)
            except TimeoutError:
                continue
        assert received == USER_ABORT
        others_are_served(upper)
        eventually(lambda: upper.connections == 0, "the slot is free")
        assert all(instance.abandoned for instance in upper.sink.instances[:-1])


def test_empty_fragments_are_no_progress() -> None:
    """A data set of empty fragments, however many, is one that does not come."""
    with stage(**SHORT) as upper, RawPeer(upper.port).associate() as slow:
        slow.send(store(b"x" * 100)[:-100])
        with pytest.raises(OSError, match=r"(?i)reset|pipe"):
            keep_sending(slow, values((STORE_ID, 0, b"")))
        eventually(lambda: upper.connections == 0, "the slot is free")


def test_a_peer_that_reads_no_answers_is_not_read_from() -> None:
    """Endless requests without reading a response fill nobody's memory, and end when the idle time is over."""
    with stage(**SHORT) as upper, RawPeer(upper.port).associate() as deaf:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(OSError, match=r"(?i)reset|pipe|timed"):
            keep_sending(deaf, echo() * 1000)
        eventually(lambda: upper.connections == 0, "the slot is free")


def test_a_longer_pdu_than_advertised_is_refused_by_its_header() -> None:
    """One byte more than the maximum length is an abort before any of it is taken."""
    with stage(max_pdu=4096) as upper, RawPeer(upper.port).associate() as peer:
        peer.send(struct.pack(">BxI", 4, 4097))
        assert peer.receive() == INVALID


def test_a_peer_that_talks_on_after_an_abort_is_cut_off() -> None:
    """In Sta13 nothing is answered any more, and ARTIM ends it."""
    with stage(**SHORT) as upper, RawPeer(upper.port).associate() as peer:
        with pytest.raises(OSError, match=r"(?i)reset|pipe"):
            keep_sending(peer, request() + b"\xff\0\0\0\0\0")
        eventually(lambda: upper.connections == 0, "the slot is free")


def _resident_kilobytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_a_long_data_set_needs_no_memory() -> None:
    """Two hundred megabytes pass through; what is kept of them at any time is one buffer."""

    class Counted:
        def __init__(self) -> None:
            self.size = self.longest = 0

        def extend(self, fragment: memoryview) -> "Counted":
            self.size += len(fragment)
            self.longest = max(self.longest, len(fragment))
            return self

        __iadd__ = extend

    fragment = values((STORE_ID, 0, bytes(131066)))
    with stage() as upper, RawPeer(upper.port).associate() as peer:
        head = store(b"")
        peer.send(head[:-12])
        eventually(lambda: len(upper.sink.instances) == 1, "the data set began")
        counted = Counted()
        upper.sink.instances[0].data_set = counted  # type: ignore[assignment]
        gc.collect()
        before = _resident_kilobytes()
        for _ in range(1600):
            peer.send(fragment)
        peer.send(values((STORE_ID, 2, b"")))
        assert peer.stored() == (1, 0, "")
        assert counted.size == 1600 * 131066
        assert counted.longest <= 256 * 1024
        assert _resident_kilobytes() - before < 4096


def test_idle_associations_cost_next_to_nothing() -> None:
    """Sixty-four open associations use under two per cent of a core and share one receive buffer."""
    with stage(sweep_seconds=0.5) as upper, ExitStack() as open_peers:
        for _ in range(64):
            open_peers.enter_context(RawPeer(upper.port).associate())
        before, began = os.times(), time.monotonic()
        time.sleep(1.5)  # what is measured is the cost of doing nothing for a while
        after, elapsed = os.times(), time.monotonic() - began
        assert (after.user + after.system - before.user - before.system) / elapsed < 0.02
        assert len({id(connection._buffer.obj) for connection in upper.acceptor._open}) == 1


def test_greedy_peers_do_not_starve_a_small_one() -> None:
    """While others send as fast as they can, an echo is answered within their turns."""
    with stage() as upper, ExitStack() as stack:
        stop = threading.Event()

        def flood() -> None:
            with RawPeer(upper.port).associate() as peer:
                while not stop.is_set():
                    peer.send(store(bytes(2_000_000), max_pdu=131072))
                    assert peer.stored() == (1, 0, "")

        threads = [threading.Thread(target=flood) for _ in range(3)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        waits = []
        with RawPeer(upper.port).associate() as small:
            for _ in range(20):
                began = time.monotonic()
                small.send(echo())
                assert small.status() == 0
                waits.append(time.monotonic() - began)
        assert sorted(waits)[10] < 0.25


@pytest.fixture(scope="module")
def shared() -> Iterator[UpperLayerWorld]:
    """One upper layer for many random peers."""
    with stage(artim_seconds=0.8, idle_seconds=0.8) as running:
        yield running


some_values = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.binary(max_size=20)), min_size=1, max_size=4
).map(lambda parts: values(*parts))
words = st.one_of(
    st.binary(max_size=60), some_values, st.sampled_from([echo(), store(b"some data"), RELEASE_RQ, request()])
)


@given(st.booleans(), st.booleans(), st.lists(words, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_talk_ends_in_a_close(
    shared: UpperLayerWorld, associated: bool, hangs_up: bool, talk: list[bytes]
) -> None:
    """Whatever is said, with or without an association, no error escapes and the connection ends in time."""
    with RawPeer(shared.port) as peer:
        if associated:
            peer.associate()
        try:
            peer.send(b"".join(talk))
            if hangs_up:
                peer.socket.shutdown(socket.SHUT_WR)
            while peer.socket.recv(65536):
                pass
        except TimeoutError:
            pytest.fail("the connection was left open")
        except OSError:
            pass
    eventually(lambda: shared.connections == 0, "the slot is free")
    assert shared.errors == []
