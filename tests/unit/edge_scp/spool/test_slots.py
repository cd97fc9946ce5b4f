"""Slots keep what was acknowledged through restarts and crashes, and are empty only when that is on the disk."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucky.settings import Settings
from edge_scp.spool.capacity import Notified
from edge_scp.spool.entry import Entry
from edge_scp.spool.notifications import Ended, Spooled
from edge_scp.spool.record import CorruptRecord, verify
from edge_scp.spool.slots import HEADER_BYTES, SLOT_BYTES, Slots, SlotState, wanted
from tests.support.edge.spool_world import SLOT, SpoolWorld, all_kept, verified

COUNT = 4


def record_bytes(folder: Path, number: int = 0) -> bytes:
    """Return a spool record."""
    world = SpoolWorld(folder)
    world.keep(b"%08d" % number * 500)
    (name,) = world.ready()
    content = (world.folder.ready / name).read_bytes()
    world.close()
    return content


def fill(path: Path, index: int, content: bytes, when: int = 7) -> None:
    """Write a record and its header into a slot, as a receiver's fast path does."""
    header = b"BUCKYTR1" + struct.pack("<QQ", when, len(content))
    header += struct.pack("<I", zlib.crc32(header))
    with path.open("r+b") as file:
        file.seek(index * SLOT_BYTES)
        file.write(header.ljust(HEADER_BYTES, b"\0") + content)


def start(path: Path, count: int = COUNT) -> Slots:
    """Open slots as an edge does when it starts."""
    slots, page = Slots.start(path, count)
    os.close(page)
    assert slots is not None
    slots.prepare(count, lambda: True)
    return slots


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A record."""
    return record_bytes(tmp_path / "elsewhere")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where slots are."""
    return tmp_path / "slots"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SpoolWorld]:
    """A spool with slots."""
    world = SpoolWorld(tmp_path / "spool", slots=COUNT)
    yield world
    world.close()


def test_slots_are_prepared_once_and_free(path: Path) -> None:
    """All blocks are there before a slot is used, and another start finds them."""
    assert start(path).free == COUNT
    assert path.stat().st_size == COUNT * SLOT_BYTES
    assert path.stat().st_blocks * 512 >= COUNT * SLOT_BYTES
    slots, page = Slots.start(path, COUNT)
    os.close(page)
    assert slots is not None
    assert slots.free == COUNT


def test_no_slot_is_prepared_without_room(path: Path) -> None:
    """A disk with little room is left alone."""
    slots, page = Slots.start(path, 20)
    os.close(page)
    assert slots is not None
    answers = iter([True, False])
    slots.prepare(20, lambda: next(answers))
    assert slots.free == 8


def test_what_is_in_a_slot_is_found_after_a_restart(tmp_path: Path, content: bytes) -> None:
    """An acknowledged instance whose edge was killed is queued again, unverified, in the order it came."""
    world = SpoolWorld(tmp_path / "spool", slots=COUNT)
    world.keep()
    world.close()
    fill(world.folder.slots, 2, content, when=5)
    fill(world.folder.slots, 1, content, when=3)
    again = SpoolWorld(tmp_path / "spool", slots=COUNT)
    assert again.counters.instances == 3
    entries = [again.spool.take(), again.spool.take(), again.spool.take()]
    assert [entry.received_ns for entry in entries if entry][:2] == [3, 5]
    for entry in entries[:2]:
        assert entry is not None
        assert not entry.verified
        with again.spool.open_record(entry) as file:
            assert verify(file).object_size < entry.size == len(content)
    assert again.slots is not None
    assert again.slots.free == COUNT - 2
    again.close()


def test_a_released_slot_is_empty_on_the_disk_and_free(world: SpoolWorld, content: bytes) -> None:
    """What is safe elsewhere is not found again, and its slot takes another."""
    again = restarted(world, {0: content})
    entry = again.spool.take()
    assert entry is not None
    again.spool.release(entry)
    assert again.counters.instances == again.counters.held_bytes == 0
    assert again.slots is not None
    assert again.slots.free == COUNT
    assert list(start(again.folder.slots).found()) == []
    again.close()


def restarted(world: SpoolWorld, contents: dict[int, bytes]) -> SpoolWorld:
    """Return a spool in which an edge finds these records in slots."""
    for index, content in contents.items():
        fill(world.folder.slots, index, content)
    return SpoolWorld(world.folder.path, slots=COUNT)


def test_a_slot_that_was_emptied_by_the_dead_is_free(path: Path, content: bytes) -> None:
    """An uploader that died between emptying a slot and saying so costs no slot."""
    start(path)
    fill(path, 0, content)
    slots = start(path)
    with path.open("r+b") as file:
        file.write(bytes(HEADER_BYTES))
    assert slots.free == COUNT - 1
    assert list(slots.found()) == []
    assert slots.free == COUNT


def test_what_a_dead_receiver_left_is_kept_or_free(world: SpoolWorld, content: bytes) -> None:
    """Of the slots of a receiver that is gone, those with an instance are queued, and the others are free again."""
    page = memoryview(bytearray(os.pread(world.slots_page, COUNT, 0)))
    for index, owner in ((0, SLOT), (1, SLOT), (2, SLOT + 1)):
        page[index] = SlotState.OWNED + owner
    os.pwrite(world.slots_page, page, 0)
    fill(world.folder.slots, 1, content)
    world.spool.arrived([Ended(SLOT)])
    entry = world.spool.take()
    assert entry is not None
    assert (entry.name, entry.size) == (f"{7:020d}-1.slot", len(content))
    assert list(os.pread(world.slots_page, COUNT, 0)) == [
        SlotState.FREE,
        SlotState.HELD,
        SlotState.OWNED + SLOT + 1,
        SlotState.FREE,
    ]


def test_a_damaged_instance_is_set_aside(world: SpoolWorld, content: bytes) -> None:
    """Bytes that are not those that were acknowledged are never uploaded: they are kept with the reason."""
    damaged = bytearray(content)
    damaged[1000] ^= 1
    again = restarted(world, {3: bytes(damaged)})
    entry = again.spool.take()
    assert entry is not None
    with again.spool.open_record(entry) as file, pytest.raises(CorruptRecord, match="SHA-256"):
        verify(file)
    again.spool.set_aside(entry, "its bytes changed")
    (kept,) = again.folder.quarantine.glob("*.dcm")
    assert kept.read_bytes() == damaged
    assert kept.with_suffix(".reason").read_text() == "its bytes changed\n"
    assert again.slots is not None
    assert (again.slots.free, again.counters.quarantined, again.counters.instances) == (COUNT, 1, 0)
    again.close()


@pytest.mark.parametrize("at", [0, 8, 16, 24])
def test_a_torn_label_is_none(path: Path, content: bytes, at: int) -> None:
    """A header of which a byte is wrong says nothing: the instance it would be of was not acknowledged."""
    start(path)
    fill(path, 0, content)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    assert list(start(path).found()) == []


def test_fewer_slots_keep_what_they_hold(path: Path, content: bytes) -> None:
    """With fewer slots wanted than before, no instance is lost, and the room of the others is given back."""
    start(path)
    fill(path, 2, content)
    slots = start(path, 1)
    assert path.stat().st_size == 3 * SLOT_BYTES
    (entry,) = slots.found()
    with slots.open(entry) as file:
        assert file.read() == content
    slots.release(entry)
    none, page = Slots.start(path, 0)
    os.close(page)
    assert none is not None
    assert (none.free, path.stat().st_size) == (0, 0)


def test_an_entry_of_a_slot_knows_whether_it_is_still_there(path: Path, content: bytes) -> None:
    """A slot that holds another instance by now is not taken for the one it held."""
    start(path)
    fill(path, 0, content)
    slots = start(path)
    (entry,) = slots.found()
    assert slots.holds(entry)
    fill(path, 0, content, when=8)
    assert not slots.holds(entry)
    assert not slots.holds(Entry(f"{8:020d}-0.slot", 12, verified=False))


def test_news_that_come_too_late_touch_no_other_instance(world: SpoolWorld, content: bytes) -> None:
    """An instance announced after it was found, uploaded and released is forgotten, not what its slot holds since."""
    again = restarted(world, {0: content})
    entry = again.spool.take()
    assert entry is not None
    again.spool.release(entry)
    fill(again.folder.slots, 0, content, when=8)
    again.spool.arrived([Spooled(entry.name, entry.size, SLOT, Notified(entry.size, 1))])
    late = again.spool.take()
    assert late is not None
    with pytest.raises(FileNotFoundError):
        again.spool.open_record(late)
    again.spool.release(late)
    again.spool.give_back(late)
    assert again.spool.take() is None
    again.close()
    (found,) = start(again.folder.slots).found()
    assert found.received_ns == 8


def test_slots_of_an_uploader_that_died_preparing_them_are_used(path: Path) -> None:
    """Its successor goes on where it ended, with what it had written."""
    slots, page = Slots.start(path, COUNT)
    os.close(page)
    assert slots is not None
    os.truncate(path, 2 * SLOT_BYTES + 5000)
    slots.prepare(COUNT, lambda: True)
    assert (slots.free, path.stat().st_size) == (COUNT, COUNT * SLOT_BYTES)


def test_a_record_is_read_like_a_file(path: Path, content: bytes) -> None:
    """Reading, seeking and the end are those of the record, not of the file that holds it."""
    start(path)
    fill(path, 1, content)
    slots = start(path)
    (entry,) = slots.found()
    with slots.open(entry) as file:
        assert file.seek(0, io.SEEK_END) == len(content)
        assert file.read() == b""
        file.seek(10)
        assert file.read(20) == content[10:30]
        assert file.read() == content[30:]


def test_slots_are_wanted_where_they_can_be_used(tmp_path: Path) -> None:
    """None where nothing would use them, and not more than the spool may hold."""
    assert wanted(Settings(edge_fast_path=False)) == 0
    assert wanted(Settings(spool_max_bytes=3 * SLOT_BYTES)) in (0, 3)
    assert Slots.start(tmp_path / "slots", 0)[0] is None
    assert not (tmp_path / "slots").exists()


def test_what_is_kept_is_seen_in_both_places(world: SpoolWorld, content: bytes) -> None:
    """The tests' own look at a spool sees files and slots."""
    world.keep()
    fill(world.folder.slots, 0, content)
    assert sorted(size for _, size in all_kept(world.folder.path)) == sorted(
        [len(content), (world.folder.ready / world.ready()[0]).stat().st_size]
    )
    assert verified(world.folder.ready / world.ready()[0])
