"""Many associations that open, store, stall, abort and vanish at random leave nothing behind."""

import gc
import logging
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from edge_scp.association.connection import Connection
from edge_scp.association.service_user import AcceptedAssociation
from tests.support.dimse.raw_peer import ABORT, RELEASE_RQ, RawPeer, echo, request, store
from tests.support.edge.upper_layer_world import UpperLayerWorld, stage
from tests.support.soak import SOAK
from tests.support.waiting import eventually

SENDERS, EACH = 4, 250 * SOAK


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A thousand associations need no log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def one_association(chance: random.Random, port: int) -> None:
    """Do something that peers do, well or badly."""
    instance = store(chance.randbytes(chance.randrange(20_000)), max_pdu=chance.choice([100, 4096, 16384]))
    with RawPeer(port) as peer:
        match chance.randrange(8):
            case 0:
                return
            case 1:
                peer.send(request()[: chance.randrange(1, 200)])
                return
            case 2:
                peer.send(request("NOBODY"))
                assert peer.receive()[0] == 0x03
                return
        peer.associate()
        for _ in range(chance.randrange(3)):
            peer.send(instance)
            assert peer.stored() == (1, 0, "")
        match chance.randrange(6):
            case 0:
                peer.send(instance[: chance.randrange(len(instance))])
            case 1:
                peer.send(instance + ABORT)
            case 2:
                peer.send(chance.randbytes(50))
            case 3:
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.send(instance[:100])
            case _:
                peer.send(echo() + RELEASE_RQ)
                assert peer.status() == 0
                assert peer.receive()[0] == 0x06


def wave(upper: UpperLayerWorld, seed: int) -> None:
    """Run all senders once, and wait until every connection is closed."""
    failures: list[BaseException] = []

    def send(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        try:
            for _ in range(EACH):
                one_association(chance, upper.port)
        except BaseException as error:  # carried to the test's own thread
            failures.append(error)
            raise

    threads = [threading.Thread(target=send, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    eventually(lambda: upper.connections == 0, "every connection was closed")


def descriptors() -> int:
    """Return how many file descriptors are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def alive() -> int:
    """Return how many associations and connections are in memory."""
    gc.collect()
    return sum(isinstance(thing, AcceptedAssociation | Connection) for thing in gc.get_objects())


def test_a_thousand_associations_leave_nothing_behind() -> None:
    """Descriptors, threads and objects are what they were, and every instance was finished or abandoned."""
    with stage(artim_seconds=2, idle_seconds=2) as upper:
        wave(upper, 1)
        objects = alive()
        before = descriptors(), threading.active_count()
        wave(upper, 2)
        eventually(lambda: alive() <= objects, "associations were forgotten")
        # Fewer, where another test's were collected meanwhile.
        assert descriptors() <= before[0]
        assert threading.active_count() <= before[1]
        assert all(instance.finished or instance.abandoned for instance in upper.sink.instances)
        assert len(upper.acceptor._sweep._looks) == 0


def test_descriptors_past_1024_are_served() -> None:
    """Nothing here uses select(), which knows no descriptor past 1023."""
    with stage() as upper, ExitStack() as many:
        ours = os.open("/dev/null", os.O_RDONLY)
        many.callback(os.close, ours)
        while (copy := os.dup(ours)) < 1100:
            many.callback(os.close, copy)
        many.callback(os.close, copy)
        with RawPeer(upper.port).associate() as peer:
            assert peer.socket.fileno() > 1024
            peer.send(store(b"far away"))
            assert peer.stored() == (1, 0, "")
