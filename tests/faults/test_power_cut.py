"""What survives when the power goes in the middle of receiving: `make test-powercut`, as root.

The spool is on a file system of its own, in an image file that the loop device writes directly. The image lies
on another file system, which is frozen for the cut: from that moment no byte reaches the image, as none reaches
a disk without power. The copy taken then holds what was written to the disk, and nothing of the page cache.
"""

import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bucky.dimse import Outcome, store_all
from edge_scp.spool.record import CorruptRecord, verify
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.edge.edge_process import EdgeProcess, edge_process
from tests.support.edge.spool_world import SpoolWorld
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(
    os.environ.get("TEST_POWERCUT") != "1" or os.geteuid() != 0,
    reason="cutting the power takes loop devices, mounts and a minute: run `make test-powercut` as root",
)

MEGABYTE = 1024 * 1024
WITHOUT_SYNC = Path(__file__).parent.parent / "support" / "edge" / "without_sync"
FREEZE, THAW = 0xC0045877, 0xC0045878  # FIFREEZE, FITHAW of linux/fs.h
ASSOCIATIONS = 4
BATCH = 200
# How a copy is mounted beside its original: xfs refuses a second file system of the same name.
FILE_SYSTEMS = {"ext4": "defaults", "xfs": "nouuid"}


def run(*command: str | Path) -> str:
    """Run a command, or fail with what it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


@contextmanager
def mounted(image: Path, folder: Path, options: str = "defaults") -> Iterator[Path]:
    """Mount an image through a loop device that writes past the page cache of the file system it lies on."""
    folder.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", "--direct-io=on", image)
    try:
        assert run("losetup", "--noheadings", "--output", "DIO", device) == "1", "direct I/O is what makes this a test"
        run("mount", "-o", options, device, folder)
        try:
            yield folder
        finally:
            run("umount", folder)
    finally:
        run("losetup", "--detach", device)


def mkfs(kind: str) -> str | None:
    """Return the program that makes such a file system, or None when it is not installed."""
    return shutil.which(f"mkfs.{kind}", path="/usr/sbin:/sbin")


def made(image: Path, megabytes: int, kind: str) -> Path:
    """Make an image file with an empty file system in it."""
    with image.open("wb") as file:
        file.truncate(megabytes * MEGABYTE)
    run(mkfs(kind) or f"mkfs.{kind}", "-q", image)
    return image


@dataclass
class Disk:
    """A disk that can lose its power."""

    kind: str
    image: Path
    below: Path
    folder: Path

    def cut(self, copy: Path) -> None:
        """Copy what is on the disk at one moment."""
        descriptor = os.open(self.below, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, FREEZE, 0)
            try:
                run("cp", "--sparse=always", self.image, copy)
            finally:
                fcntl.ioctl(descriptor, THAW, 0)
        finally:
            os.close(descriptor)


@pytest.fixture(params=FILE_SYSTEMS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """An empty disk with a file system of one kind."""
    kind = request.param
    if mkfs(kind) is None:
        pytest.skip(f"mkfs.{kind} is not installed (make test-powercut installs it)")
    with ExitStack() as stack:
        below = stack.enter_context(mounted(made(tmp_path / "below.img", 900, "ext4"), tmp_path / "below"))
        image = made(below / "disk.img", 600, kind)
        folder = stack.enter_context(mounted(image, tmp_path / "disk"))
        yield Disk(kind, image, below, folder)


class Sender:
    """Sends instances over several associations, and knows at any time what was acknowledged."""

    def __init__(self, sent: list[Sample]) -> None:
        self._sent = sent
        self._acknowledged: set[str] = set()
        self._arrived = threading.Condition()

    @property
    def acknowledged(self) -> set[str]:
        """Return the digests of what was answered with success."""
        with self._arrived:
            return set(self._acknowledged)

    def send(self, edge: EdgeProcess) -> None:
        """Send everything."""
        store_all(edge.peer(), [s.outgoing for s in self._sent], associations=ASSOCIATIONS, on_result=self._note)

    def wait_for(self, count: int) -> None:
        """Wait until so many were acknowledged."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self._acknowledged) >= count, timeout=60)

    def _note(self, index: int, result: object) -> None:
        if getattr(result, "outcome", None) is Outcome.STORED:
            with self._arrived:
                self._acknowledged.add(self._sent[index].sha256)
                self._arrived.notify_all()


def survivors(image: Path, folder: Path, kind: str) -> set[str]:
    """Start again from a disk after its cut; return the digests of what is found and whole."""
    whole = set()
    with mounted(image, folder, FILE_SYSTEMS[kind]):
        world = SpoolWorld(folder / "spool")
        while (entry := world.spool.take()) is not None:
            try:
                with world.spool.open_record(entry) as record:
                    whole.add(verify(record).sha256)
            except CorruptRecord as torn:
                world.spool.set_aside(entry, str(torn))
        world.close()
    return whole


def lost_in_cuts(
    disk: Disk, scratch: Path, cuts: int, slots: int = 0, python_path: Path | None = None
) -> list[set[str]]:
    """Cut the power several times, each while instances arrive; return what each cut cost of what was acknowledged."""
    spool, lost = disk.folder / "spool", []
    acknowledged: set[str] = set()
    with (
        edge_process(scratch, python_path=python_path, spool_dir=spool, spool_slots=slots) as edge,
        ThreadPoolExecutor(1) as pool,
    ):
        eventually(lambda: not slots or (spool / "slots").stat().st_size == slots * MEGABYTE, "slots are there")
        for number in range(cuts):
            sent = samples(BATCH)
            sender, copy = Sender(sent), scratch / f"cut-{number}.img"
            sending = pool.submit(sender.send, edge)
            sender.wait_for(BATCH // 3)
            before = sender.acknowledged
            disk.cut(copy)
            assert len(before) < BATCH, "the cut came after everything was sent"
            sending.result()
            assert len(sender.acknowledged) == BATCH
            lost.append((acknowledged | before) - survivors(copy, scratch / "after", disk.kind))
            acknowledged |= sender.acknowledged
            copy.unlink()
    return lost


@pytest.mark.parametrize("slots", [0, 128], ids=["group", "slots"])
def test_what_was_acknowledged_survives_a_power_cut(disk: Disk, tmp_path: Path, slots: int) -> None:
    """Wherever in the load the power goes, every instance acknowledged before is there, byte for byte."""
    assert lost_in_cuts(disk, tmp_path, cuts=3, slots=slots) == [set(), set(), set()]


def test_without_the_sync_the_cut_is_noticed(disk: Disk, tmp_path: Path) -> None:
    """This test can fail: an edge whose syncs do nothing loses what it acknowledged, and the cut shows it."""
    (lost,) = lost_in_cuts(disk, tmp_path, cuts=1, python_path=WITHOUT_SYNC)
    assert lost
