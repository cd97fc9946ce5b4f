"""The spool keeps what was acknowledged through crashes, and never hands out what it cannot trust."""

import errno
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest

from bucky.errors import SettingsError
from bucky.identity import Identity
from bucky.part10 import FileMeta, split
from edge_scp.capacity import SpoolFull
from edge_scp.disk import Disk
from edge_scp.record import CorruptRecord, Record, read_record, verify
from edge_scp.spool import Spool
from edge_scp.spool_writer import Provenance, SpoolFailed

IDENTITY = Identity("1.2.840.10008.5.1.4.1.1.7", "1.2.3.4", "1.2.3", "1.2.33")
META = FileMeta(IDENTITY.sop_class_uid, IDENTITY.sop_instance_uid, "1.2.840.10008.1.2", "CT", "BUCKY")
PROVENANCE = Provenance("CT", "BUCKY", "127.0.0.1", "a1", datetime.now(UTC), "00-" + "1" * 32 + "-22-01")
DATA = b"\x08\x00\x16\x00\x02\x00\x00\x001\0" * 1000
STEPS = ("create", "write", "sync", "rename", "sync_folder")


class PowerCut(BaseException):
    """The machine lost its power; nothing runs after it, not even cleaning up."""


class FaultyDisk(Disk):
    """A real disk that notes each step, and can fail or be cut at one of them."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fail_at: str | None = None
        self.error = errno.EIO
        self.cut_before: int | None = None
        self.free: int | None = None

    def _step(self, name: str) -> None:
        if self.cut_before is not None and len(self.steps) >= self.cut_before:
            raise PowerCut
        self.steps.append(name)
        if name == self.fail_at:
            raise OSError(self.error, os.strerror(self.error))

    def create(self, path: Path) -> int:
        self._step("create")
        return super().create(path)

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        self._step("write")
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self._step("sync")
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        super().rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        self._step("sync_folder")
        super().sync_folder(folder)

    def unlink(self, path: Path) -> None:
        if self.cut_before is not None:
            raise PowerCut
        super().unlink(path)

    def free_bytes(self, folder: Path) -> int:
        return super().free_bytes(folder) if self.free is None else self.free


def opened(folder: Path, disk: Disk | None = None, max_bytes: int = 10**9, min_free: int = 0) -> Spool:
    """Return an open spool."""
    spool = Spool(folder, max_bytes, min_free, disk)
    spool.open()
    return spool


def keep(spool: Spool, data: bytes = DATA) -> Record:
    """Put one instance into the spool as the receiver does."""
    with spool.begin(META, len(data)) as writer:
        writer.write(data)
        return writer.commit(IDENTITY, PROVENANCE)


def files(folder: Path) -> list[str]:
    """Return the names of all files that hold or held an instance."""
    return sorted(path.name for kind in ("incoming", "ready") for path in (folder / kind).iterdir())


def test_a_record_is_a_dicom_file_and_its_proof(tmp_path: Path) -> None:
    """The spooled file begins with a DICOM file whose data set is what came, byte for byte."""
    spool = opened(tmp_path)
    record = keep(spool)
    entry = spool.take()
    assert entry is not None
    content = spool.path(entry).read_bytes()
    meta, offset = split(content)
    assert meta == META
    assert content[offset : record.object_size] == DATA
    assert record.sha256 == hashlib.sha256(DATA).hexdigest()
    assert verify(spool.path(entry)) == record
    file_meta = pydicom.dcmread(spool.path(entry), stop_before_pixels=True, specific_tags=[]).file_meta
    assert file_meta.MediaStorageSOPInstanceUID == IDENTITY.sop_instance_uid
    spool.close()


def test_acknowledged_only_after_file_and_folder_are_synced(tmp_path: Path) -> None:
    """Success comes after write, fsync, rename and folder fsync, in that order: that is the promise."""
    disk = FaultyDisk()
    spool = opened(tmp_path, disk)
    disk.steps.clear()
    announced: list[int] = []
    spool.on_ready = lambda: announced.append(len(disk.steps))
    keep(spool)
    first = {step: disk.steps.index(step) for step in STEPS}
    last_write = max(at for at, step in enumerate(disk.steps) if step == "write")
    assert first["create"] < last_write < first["sync"] < first["rename"] < first["sync_folder"]
    assert announced == [len(disk.steps)]
    spool.close()


def test_a_power_cut_at_any_step_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Wherever the power goes, a restart finds every acknowledged instance and no half one."""
    cut = 0
    while True:
        folder = tmp_path / str(cut)
        disk = FaultyDisk()
        spool = opened(folder, disk)
        acknowledged = keep(spool).sha256
        disk.steps.clear()
        disk.cut_before = cut
        survived = False
        try:
            keep(spool, b"second" * 500)
            survived = True
        except PowerCut:
            pass
        spool.close()
        after = opened(folder)
        found = []
        while (entry := after.take()) is not None:
            assert not entry.verified
            found.append(verify(after.path(entry)).sha256)
        after.close()
        assert found[0] == acknowledged
        assert len(found) <= 2
        assert not list((folder / "incoming").iterdir())
        if survived:
            assert len(found) == 2
            break
        cut += 1
    assert cut >= len(STEPS)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_disk_error_refuses_and_leaves_nothing(tmp_path: Path, step: str, error: int) -> None:
    """When any step fails, the instance is refused, its bytes and room are given back, and the next is kept."""
    disk = FaultyDisk()
    spool = opened(tmp_path, disk)
    disk.fail_at, disk.error = step, error
    with pytest.raises(SpoolFull if error == errno.ENOSPC else SpoolFailed):
        keep(spool)
    assert files(tmp_path) == []
    assert spool.state().bytes == 0
    assert spool.take() is None
    disk.fail_at = None
    keep(spool)
    assert spool.state().instances == 1
    spool.close()


def test_full_by_size_refuses_before_writing_and_recovers(tmp_path: Path) -> None:
    """Past its size the spool refuses without touching the disk; releasing one makes room for one."""
    disk = FaultyDisk()
    spool = opened(tmp_path, disk, max_bytes=30_000)
    keep(spool)
    keep(spool)
    assert spool.state().accepting
    disk.steps.clear()
    with pytest.raises(SpoolFull):
        keep(spool)
    assert disk.steps == []
    entry = spool.take()
    assert entry is not None
    spool.release(entry)
    keep(spool)
    assert len(files(tmp_path)) == 2
    spool.close()


def test_full_by_free_space_refuses_and_says_so(tmp_path: Path) -> None:
    """With less free disk than the reserve the spool refuses, and its state says that it does."""
    disk = FaultyDisk()
    spool = opened(tmp_path, disk, min_free=1_000_000)
    disk.free = 1_000_000 + 5_000
    with pytest.raises(SpoolFull):
        keep(spool)
    disk.free = 500_000
    assert not spool.state().accepting
    disk.free = None
    keep(spool)
    spool.close()


def test_an_instance_larger_than_promised_reserves_as_it_grows(tmp_path: Path) -> None:
    """A stream of unknown length is kept while there is room and refused, whole, when there is none."""
    spool = opened(tmp_path, max_bytes=12 * 1024 * 1024)
    piece = bytes(1024 * 1024)
    with spool.begin(META) as writer:
        for _ in range(6):
            writer.write(piece)
        assert writer.commit(IDENTITY, PROVENANCE).sha256 == hashlib.sha256(piece * 6).hexdigest()
    held = spool.state().bytes
    assert 6 * len(piece) < held < 6 * len(piece) + 5000
    with spool.begin(META) as writer:
        writer.write(piece * 5)
        with pytest.raises(SpoolFull):
            writer.write(piece * 2)
    assert spool.state().bytes == held
    spool.close()


def test_abandoned_without_commit_is_deleted(tmp_path: Path) -> None:
    """An association that breaks half-way leaves no file and holds no room."""
    spool = opened(tmp_path)
    with spool.begin(META, 100) as writer:
        writer.write(b"half")
    assert files(tmp_path) == []
    assert spool.state().bytes == 0
    spool.close()


def test_restart_resumes_oldest_first_and_counts_what_is_there(tmp_path: Path) -> None:
    """After a restart the spool is uploaded in the order it was received, and its size is known."""
    spool = opened(tmp_path)
    kept = [keep(spool, f"{number:04d}".encode() * 30).sha256 for number in range(5)]
    before = spool.state()
    spool.close()
    again = opened(tmp_path)
    assert again.state().bytes == before.bytes
    found = []
    while (entry := again.take()) is not None:
        found.append(read_record(again.path(entry)).sha256)
    assert found == kept
    again.close()


def test_a_given_back_entry_waits_behind_the_others(tmp_path: Path) -> None:
    """One instance the store refuses does not hold up the rest."""
    spool = opened(tmp_path)
    keep(spool)
    keep(spool)
    first, second = spool.take(), spool.take()
    assert first is not None
    assert second is not None
    spool.give_back(first)
    spool.give_back(second)
    assert spool.take() == first
    assert spool.take() == second
    assert spool.take() is None
    assert spool.state().instances == 2
    spool.close()


def kept_file(folder: Path) -> Path:
    """Return the path of one acknowledged instance's file in a closed spool."""
    spool = opened(folder)
    keep(spool)
    entry = spool.take()
    assert entry is not None
    path = spool.path(entry)
    spool.close()
    return path


@pytest.mark.parametrize("keep_bytes", [0, 10, 200, 5_000, -1, -8, -20, -300])
def test_a_torn_file_is_recognised(tmp_path: Path, keep_bytes: int) -> None:
    """A file cut short anywhere is never taken for an instance."""
    path = kept_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: keep_bytes if keep_bytes >= 0 else len(content) + keep_bytes])
    with pytest.raises(CorruptRecord):
        verify(path)


def test_every_flipped_byte_of_data_set_and_footer_is_noticed(tmp_path: Path) -> None:
    """One changed byte in the data set, the footer or the trailer makes the file untrusted."""
    path = kept_file(tmp_path)
    content = path.read_bytes()
    offset = verify(path).data_set_offset
    places = [offset, offset + 5000, *range(verify(path).object_size, len(content), 7), len(content) - 1]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(CorruptRecord):
            verify(path)


def test_a_footer_that_is_not_ours_is_corrupt(tmp_path: Path) -> None:
    """A well-formed footer with other content is refused, not misread."""
    path = kept_file(tmp_path)
    record = read_record(path)
    whole = path.read_bytes()[: record.object_size]
    path.write_bytes(whole + record.model_copy(update={"sop_instance_uid": "../../x"}).footer())
    with pytest.raises(CorruptRecord, match="not a record"):
        read_record(path)


def test_set_aside_keeps_the_file_and_the_reason(tmp_path: Path) -> None:
    """What cannot be stored is moved with its reason, deleted by nobody, and counted after a restart."""
    spool = opened(tmp_path)
    keep(spool)
    entry = spool.take()
    assert entry is not None
    spool.set_aside(entry, "its bytes changed")
    assert spool.state().instances == 0
    assert spool.state().quarantined == 1
    spool.close()
    (reason,) = (tmp_path / "quarantine").glob("*.reason")
    assert reason.read_text() == "its bytes changed\n"
    again = opened(tmp_path)
    assert again.state().quarantined == 1
    assert again.take() is None
    again.close()


def test_two_edges_cannot_share_a_spool(tmp_path: Path) -> None:
    """A second process on the same folder is told so, instead of deleting what the first is writing."""
    spool = opened(tmp_path)
    with pytest.raises(SettingsError, match="another edge"):
        opened(tmp_path)
    spool.close()
    opened(tmp_path).close()


def test_spooled_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Instances hold patient data: no other user of the machine can read them."""
    path = kept_file(tmp_path / "spool")
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
