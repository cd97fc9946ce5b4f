"""The fast path stores instances in slots, or in files when there is none; what fails leaves nothing."""

import errno
import os
import resource
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from edge_scp.spool.slots import HEADER_BYTES, SLOT_BYTES
from tests.support.edge.edge_process import ListenerAlone, listener_alone
from tests.support.edge.lane_talk import EXPLICIT_ID, associated, data_set, store
from tests.support.edge.native_part import needs_native_part
from tests.support.edge.spool_world import all_kept
from tests.support.waiting import eventually

pytestmark = needs_native_part

__all__ = ["pytestmark"]


def instance(number: int, pixels: int = 600_000) -> bytes:
    """Return a C-STORE-RQ with its data set."""
    return store(EXPLICIT_ID, data_set(f"1.2.3.{number}", pixels=pixels), f"1.2.3.{number}", message_id=number)


def noise(uid: str, pixels: bytes) -> bytes:
    """Return a C-STORE-RQ with these pixels."""
    empty = data_set(uid, pixels=0)
    return store(EXPLICIT_ID, empty[:-4] + len(pixels).to_bytes(4, "little") + pixels, uid)


def free(alone: ListenerAlone) -> int:
    """Return how many slots are free."""
    assert alone.world.slots is not None
    return alone.world.slots.free


def test_slots_first_then_files(tmp_path: Path) -> None:
    """While a slot is free no file is made; when all are in use, or an instance is long, files are."""
    with listener_alone(tmp_path, slots=2) as alone, associated(alone) as peer:
        for number in range(1, 5):
            peer.send(instance(number))
            assert peer.stored()[1] == 0
        assert (free(alone), len(alone.world.ready())) == (0, 2)
        kept = all_kept(alone.world.folder.path)
        assert sorted(record.sop_instance_uid for record, _ in kept) == [f"1.2.3.{number}" for number in range(1, 5)]
        assert alone.instances == 4
        assert alone.world.counters.held_bytes == sum(size for _, size in kept)
        assert len(alone.files()) == 4
        assert (free(alone), alone.world.ready(), alone.world.counters.held_bytes) == (2, [], 0)
        peer.send(instance(5, pixels=3_000_000))
        assert peer.stored()[1] == 0
        assert (free(alone), len(alone.world.ready())) == (2, 1)


def test_a_slot_is_used_again_and_again(tmp_path: Path) -> None:
    """What a slot held before, longer or shorter, is not in what it holds now."""
    with listener_alone(tmp_path, slots=1) as alone, associated(alone) as peer:
        for number in range(1, 40):
            peer.send(instance(number, pixels=(number * 79_197) % 1_030_000))
            assert peer.stored()[1] == 0
            assert free(alone) == 0
            ((record, _size),) = all_kept(alone.world.folder.path)
            assert record.sop_instance_uid == f"1.2.3.{number}"
            (file,) = alone.files()
            assert len(file) == record.object_size
    assert alone.world.ready() == []


def test_digests_of_many_at_once(tmp_path: Path) -> None:
    """Instances of all lengths, arriving at once in pieces of all lengths, have the digests of their own bytes."""
    random = Random(20261126)
    with listener_alone(tmp_path, slots=32) as alone, ExitStack() as associations:
        peers = [associations.enter_context(associated(alone)) for _ in range(9)]
        for turn in range(4):
            sent = {
                f"1.2.3.{turn}.{number}": random.randbytes(random.randrange(1_040_000)) for number in range(len(peers))
            }
            left = {peer: noise(uid, pixels) for peer, (uid, pixels) in zip(peers, sent.items(), strict=True)}
            while left:
                peer = random.choice(list(left))
                size = random.choice((64, 5_000, 70_000, 300_000))
                peer.send(left[peer][:size])
                left[peer] = left[peer][size:]
                if not left[peer]:
                    del left[peer]
            assert {peer.stored()[1] for peer in peers} == {0}
            # It compares each digest with the bytes that are kept.
            kept = {record.sop_instance_uid for record, _size in all_kept(alone.world.folder.path)}
            assert kept >= sent.keys()
            files = alone.files()
            assert len(files) == len(sent)
            assert all(any(file.endswith(pixels) for file in files) for pixels in sent.values())


def test_a_header_is_written_last(tmp_path: Path) -> None:
    """Before all of an instance has come, its slot says that it is empty: a crash leaves nothing to be misread."""
    with listener_alone(tmp_path, slots=1) as alone, associated(alone) as peer:
        whole = instance(1, pixels=900_000)
        peer.send(whole[:-10])
        eventually(lambda: alone.world.counters.held_bytes > 800_000, "it arrives")
        with alone.world.folder.slots.open("rb") as slots:
            assert slots.read(HEADER_BYTES) == bytes(HEADER_BYTES)
        peer.send(whole[-10:])
        assert peer.stored()[1] == 0
        with alone.world.folder.slots.open("rb") as slots:
            assert slots.read(8) == b"BUCKYTR1"


def test_what_breaks_off_frees_its_slot(tmp_path: Path) -> None:
    """A peer that resets in the middle of an instance leaves no bytes counted and no slot in use."""
    with listener_alone(tmp_path, slots=2) as alone:
        with associated(alone) as peer:
            peer.send(instance(1, pixels=900_000)[:700_000])
            eventually(lambda: alone.world.counters.held_bytes > 600_000, "it arrives")
            assert free(alone) == 1
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: alone.connections == 0, "the connection is over")
        eventually(lambda: free(alone) == 2, "its slot is free")
        assert (alone.world.counters.held_bytes, alone.instances) == (0, 0)


@pytest.mark.parametrize("pixels", [100_000, 600_000, 1_030_000])
def test_a_slot_that_fails_is_no_success(tmp_path: Path, pixels: int) -> None:
    """An instance whose slot the disk does not write is refused with the disk's reason; the slot is used no more."""
    with listener_alone(tmp_path, slots=1) as alone, associated(alone) as peer:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12 * HEADER_BYTES, before[1]))
        try:
            peer.send(instance(1, pixels))
            _, status, comment = peer.stored()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert status == 0xA700
        assert os.strerror(errno.EFBIG) in comment or os.strerror(errno.EIO) in comment
        assert (alone.world.counters.held_bytes, alone.world.ready(), free(alone)) == (0, [], 0)
        peer.send(instance(2, pixels))
        assert peer.stored()[1] == 0
        assert len(alone.world.ready()) == 1


def test_a_full_spool_refuses_and_frees_the_slot(tmp_path: Path) -> None:
    """An instance for which there is no room any more is refused at its end, and the next small one is kept."""
    with listener_alone(tmp_path, slots=2, spool_max_bytes=400_000) as alone, associated(alone) as peer:
        peer.send(instance(1))
        assert peer.status() == 0xA700
        eventually(lambda: free(alone) == 2, "its slot is free")
        assert alone.world.counters.held_bytes == 0
        peer.send(instance(2, pixels=500))
        assert peer.status() == 0
        assert (free(alone), len(alone.files())) == (1, 1)


def test_stopping_waits_for_what_is_written(tmp_path: Path) -> None:
    """An edge that stops right after an instance was sent has kept it, or has not answered."""
    with listener_alone(tmp_path, slots=4) as alone, associated(alone) as peer:
        peer.send(b"".join(instance(number) for number in range(1, 4)))
        assert peer.stored()[1] == 0
        alone.drain(5).result(10)
        answered = 1 + sum(pdu.startswith(b"\x04") for pdu in iter(lambda: peer.receive() or b"", b""))
    kept = all_kept(alone.world.folder.path)
    assert len(kept) >= answered
    assert (alone.world.folder.slots.stat().st_size, alone.world.ready()) == (4 * SLOT_BYTES, [])
