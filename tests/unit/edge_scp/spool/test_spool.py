"""The spool keeps what was acknowledged through crashes, and never hands out what it cannot trust."""

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from bucky.dicom.part10 import split
from bucky.errors import SettingsError
from edge_scp.spool.capacity import SpoolFull
from edge_scp.spool.disk import Disk
from edge_scp.spool.file import SpoolFailed
from edge_scp.spool.folder import SpoolFolder
from edge_scp.spool.record import CorruptRecord
from tests.support.edge.spool_world import DATA, META, SpoolWorld, verified

STEPS = ("create", "write", "link", "sync_file_system")


class FaultyDisk(Disk):
    """A real disk that notes each step, and can fail at one of them."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fail_at: str | None = None
        self.error = errno.EIO
        self.free: int | None = None

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name == self.fail_at:
            raise OSError(self.error, os.strerror(self.error))

    def create(self, folder: Path) -> int:
        self._step("create")
        return super().create(folder)

    def write(self, descriptor: int, *pieces: bytes | memoryview) -> None:
        self._step("write")
        super().write(descriptor, *pieces)

    def link(self, descriptor: int, folder: int, name: str) -> None:
        self._step("link")
        super().link(descriptor, folder, name)

    def sync_file_system(self, descriptor: int) -> None:
        self._step("sync_file_system")
        super().sync_file_system(descriptor)

    def free_bytes(self, folder: Path) -> int:
        return super().free_bytes(folder) if self.free is None else self.free


@pytest.fixture
def disk() -> FaultyDisk:
    """A disk that can fail."""
    return FaultyDisk()


@pytest.fixture
def world(tmp_path: Path, disk: FaultyDisk) -> Iterator[SpoolWorld]:
    """A spool on that disk."""
    world = SpoolWorld(tmp_path, disk=disk)
    yield world
    world.close()


def test_a_record_is_a_dicom_file_and_its_proof(world: SpoolWorld) -> None:
    """The spooled file begins with a DICOM file whose data set is what came, byte for byte."""
    record = world.keep()
    entry = world.spool.take()
    assert entry is not None
    content = world.spool.path(entry).read_bytes()
    meta, offset = split(content)
    assert meta == META
    assert content[offset : record.object_size] == DATA
    assert record.sha256 == hashlib.sha256(DATA).hexdigest()
    assert verified(world.spool.path(entry)) == record
    file_meta = pydicom.dcmread(world.spool.path(entry), stop_before_pixels=True, specific_tags=[]).file_meta
    assert file_meta.MediaStorageSOPInstanceUID == META.sop_instance_uid


def test_acknowledged_only_after_bytes_and_name_are_synced(world: SpoolWorld, disk: FaultyDisk) -> None:
    """Nobody is told before the last sync, and that is after the last write and the name: that is the promise."""
    world.keep()
    seen = [step for at, step in enumerate(disk.steps) if at == 0 or step != disk.steps[at - 1]]
    assert seen == list(STEPS)


def test_one_sync_serves_all_that_wait(world: SpoolWorld, disk: FaultyDisk) -> None:
    """Instances that are ready together share a sync, each is kept, and each is announced."""
    files = []
    for number in range(20):
        file = world.begin()
        file.write(memoryview(DATA + bytes([number, 0])))
        world.seal(file)
        files.append(file)
    disk.steps.clear()
    world.commit(*files)
    assert disk.steps == ["sync_file_system"]
    assert len(world.ready()) == world.counters.instances == 20


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_error_refuses_and_leaves_nothing(world: SpoolWorld, disk: FaultyDisk, step: str, error: int) -> None:
    """When any step fails, the instance is refused, its bytes and room are given back, and the next is kept."""
    disk.fail_at, disk.error = step, error
    # The committer's reason stays in its log: to its receivers a sync has succeeded or failed.
    told = error == errno.ENOSPC and step != "sync_file_system"
    with pytest.raises(SpoolFull if told else SpoolFailed):
        world.keep()
    assert world.ready() == []
    assert world.counters.held_bytes == 0
    assert world.spool.take() is None
    disk.fail_at = None
    world.keep()
    assert world.counters.instances == 1


def test_a_failed_sync_fails_what_was_being_written(world: SpoolWorld, disk: FaultyDisk) -> None:
    """A sync's error is reported once but may concern any open file: none begun before it is acknowledged."""
    epoch, open_meanwhile = world.committer.epoch, world.begin()
    open_meanwhile.write(memoryview(DATA))
    disk.fail_at = "sync_file_system"
    with pytest.raises(SpoolFailed):
        world.keep()
    disk.fail_at = None
    world.seal(open_meanwhile)
    with pytest.raises(SpoolFailed):
        world.commit(open_meanwhile, epoch=epoch)
    assert world.ready() == []
    world.keep()
    assert len(world.ready()) == 1


def test_full_by_size_refuses_before_writing_and_recovers(tmp_path: Path, disk: FaultyDisk) -> None:
    """Past its size the spool refuses without touching the disk; releasing one makes room for one."""
    world = SpoolWorld(tmp_path, disk=disk, max_bytes=30_000)
    world.keep()
    world.keep()
    assert world.limits.room() > 0
    disk.steps.clear()
    with pytest.raises(SpoolFull):
        world.keep(DATA * 2)
    assert "sync_file_system" not in disk.steps
    assert "link" not in disk.steps
    entry = world.spool.take()
    assert entry is not None
    world.spool.release(entry)
    world.keep()
    assert len(world.ready()) == 2
    world.close()


def test_a_full_spool_refuses_until_it_holds_clearly_less(tmp_path: Path) -> None:
    """Between the two marks a spool that was full still refuses, so that it does not flap; below, it accepts."""
    world = SpoolWorld(tmp_path, max_bytes=60_000, resume=0.5)
    while world.counters.held_bytes < 48_000:
        world.keep()
    with pytest.raises(SpoolFull):
        world.keep(DATA * 2)
    assert world.counters.refusing
    while world.counters.held_bytes > 30_000:
        assert world.limits.room() == 0
        with pytest.raises(SpoolFull):
            world.keep(b"small")
        entry = world.spool.take()
        assert entry is not None
        world.spool.release(entry)
    assert world.limits.room() > 0
    assert not world.counters.refusing
    world.keep()
    world.close()


def test_full_by_free_space_refuses_and_says_so(tmp_path: Path, disk: FaultyDisk) -> None:
    """With less free disk than the reserve the spool refuses, and its state says that it does."""
    disk.free = 1_000_000 + 5_000
    world = SpoolWorld(tmp_path, disk=disk, min_free=1_000_000)
    with pytest.raises(SpoolFull):
        world.keep()
    assert world.counters.refusing
    world.close()
    disk.free = None
    again = SpoolWorld(tmp_path, disk=disk, min_free=1_000_000)
    again.keep()
    again.close()


def test_a_long_instance_is_refused_when_it_grows_past_the_room(tmp_path: Path) -> None:
    """A stream of unknown length is kept while there is room and refused, whole, when there is none."""
    world = SpoolWorld(tmp_path, max_bytes=12 * 1024 * 1024)
    piece = memoryview(bytes(1024 * 1024))
    kept = world.keep(bytes(piece) * 6)
    held = world.counters.held_bytes
    assert kept.object_size < held < kept.object_size + 5000
    file = world.begin()
    for _ in range(5):
        file.write(piece)
    with pytest.raises(SpoolFull):
        file.write(memoryview(bytes(2 * len(piece))))
    file.discard()
    assert world.counters.held_bytes == held
    world.close()


def test_an_instance_that_is_not_whole_has_no_name(world: SpoolWorld) -> None:
    """What is still arriving is in no folder, so that a killed process leaves nothing behind."""
    file = world.begin()
    file.write(memoryview(DATA))
    assert world.ready() == []
    assert world.counters.held_bytes == file.size
    file.discard()
    assert world.counters.held_bytes == 0


def test_restart_resumes_oldest_first_and_counts_what_is_there(tmp_path: Path) -> None:
    """After a restart the spool is uploaded in the order it was received, and its size is known."""
    world = SpoolWorld(tmp_path)
    kept = [world.keep(f"{number:04d}".encode() * 30).sha256 for number in range(5)]
    before = world.counters.held_bytes
    world.close()
    again = SpoolWorld(tmp_path)
    assert again.counters.held_bytes == before
    assert again.counters.instances == 5
    found = []
    while (entry := again.spool.take()) is not None:
        assert not entry.verified
        found.append(verified(again.spool.path(entry)).sha256)
    assert found == kept
    again.close()


def test_a_given_back_entry_waits_behind_the_others(world: SpoolWorld) -> None:
    """One instance the store refuses does not hold up the rest."""
    world.keep()
    world.keep()
    first, second = world.spool.take(), world.spool.take()
    assert first is not None
    assert second is not None
    world.spool.give_back(first)
    world.spool.give_back(second)
    assert world.spool.take() == first
    assert world.spool.take() == second
    assert world.spool.take() is None
    assert world.counters.instances == 2


def test_an_entry_whose_file_was_taken_back_is_forgotten(world: SpoolWorld) -> None:
    """An entry found in the folder before its sync failed does not haunt the uploader."""
    world.keep()
    entry = world.spool.take()
    assert entry is not None
    world.spool.path(entry).unlink()
    world.spool.give_back(entry)
    assert world.spool.take() is None
    assert world.counters.instances == 0
    assert world.counters.held_bytes == 0


def kept_file(folder: Path) -> Path:
    """Return the path of one acknowledged instance's file in a closed spool."""
    world = SpoolWorld(folder)
    world.keep()
    (name,) = world.ready()
    world.close()
    return world.folder.ready / name


@pytest.mark.parametrize("keep_bytes", [0, 10, 200, 5_000, -1, -8, -20, -300])
def test_a_torn_file_is_recognised(tmp_path: Path, keep_bytes: int) -> None:
    """A file cut short anywhere is never taken for an instance."""
    path = kept_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: keep_bytes if keep_bytes >= 0 else len(content) + keep_bytes])
    with pytest.raises(CorruptRecord):
        verified(path)


def test_every_flipped_byte_of_data_set_and_footer_is_noticed(tmp_path: Path) -> None:
    """One changed byte in the data set, the footer or the trailer makes the file untrusted."""
    path = kept_file(tmp_path)
    content = path.read_bytes()
    offset = verified(path).data_set_offset
    places = [offset, offset + 5000, *range(verified(path).object_size, len(content), 7), len(content) - 1]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(CorruptRecord):
            verified(path)


def test_a_footer_that_is_not_ours_is_corrupt(tmp_path: Path) -> None:
    """A well-formed footer with other content is refused, not misread."""
    path = kept_file(tmp_path)
    record = verified(path)
    whole = path.read_bytes()[: record.object_size]
    path.write_bytes(whole + replace(record, sop_instance_uid="../../x").footer())
    with pytest.raises(CorruptRecord, match="not a record"):
        verified(path)


def test_set_aside_keeps_the_file_and_the_reason(tmp_path: Path) -> None:
    """What cannot be stored is moved with its reason, deleted by nobody, and counted after a restart."""
    world = SpoolWorld(tmp_path)
    world.keep()
    entry = world.spool.take()
    assert entry is not None
    world.spool.set_aside(entry, "its bytes changed")
    assert world.counters.instances == 0
    assert world.counters.quarantined == 1
    world.close()
    (reason,) = (tmp_path / "quarantine").glob("*.reason")
    assert reason.read_text() == "its bytes changed\n"
    again = SpoolWorld(tmp_path)
    assert again.counters.quarantined == 1
    assert again.spool.take() is None
    again.close()


def test_two_edges_cannot_share_a_spool(tmp_path: Path) -> None:
    """A second edge on the same folder is told so, and gets it as soon as the last process of the first is gone."""
    folder = SpoolFolder(tmp_path)
    folder.make()
    parents = folder.lock()
    childs = os.dup(parents)
    os.close(parents)
    with pytest.raises(SettingsError, match="another edge"):
        folder.lock(wait_seconds=0)
    os.close(childs)
    os.close(folder.lock(wait_seconds=0))


def test_spooled_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Instances hold patient data: no other user of the machine can read them."""
    path = kept_file(tmp_path / "spool")
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
