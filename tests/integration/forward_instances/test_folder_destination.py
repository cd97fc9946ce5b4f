"""Sending to a directory: where files come to lie, when they count as there, and what is left after a crash."""

import io
import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from bucky.dicom.part10 import split
from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult
from bucky.forwarding import Secrets, folder
from bucky.routing.destinations import FolderDestination
from tests.support.functions.forwarding import CT, EXPLICIT


def instance(number: int = 1, content: bytes = b"data set") -> Outgoing:
    """Return an instance."""
    uid = f"1.2.3.{number}"
    return Outgoing(CT, uid, EXPLICIT, lambda: io.BytesIO(content), {}, "1.2", "1.2.3", f"{number:064x}")


def sent(to: Path, item: Outgoing, **fields: Any) -> StoreResult:
    """Send one instance."""
    model = FolderDestination.model_validate({"name": "f", "type": "folder", "folder": str(to), **fields})
    (result,) = folder.FolderSender(model, Secrets(to)).send([item])
    return result


def test_a_file_lies_where_its_template_says(tmp_path: Path) -> None:
    """Whoever reads the share finds each instance by its UIDs, as an ordinary DICOM file."""
    sent(tmp_path, instance(), path="{StudyInstanceUID}/{SOPClassUID}/{SOPInstanceUID}-{SHA256}.dcm")
    (file,) = tmp_path.rglob("*.dcm")
    assert file.relative_to(tmp_path) == Path("1.2") / CT / f"1.2.3.1-{1:064x}.dcm"
    meta, offset = split(file.read_bytes())
    assert (meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid) == (CT, "1.2.3.1", EXPLICIT)
    assert file.read_bytes()[offset:] == b"data set"


@pytest.mark.parametrize("uid", ["../../escape", "", "..", "1/2"])
def test_nothing_but_a_uid_becomes_part_of_a_path(tmp_path: Path, uid: str) -> None:
    """Who sends an instance must not choose where its file is written."""
    (tmp_path / "kept").mkdir()
    result = sent(tmp_path / "kept", Outgoing(CT, uid, EXPLICIT, io.BytesIO, {}, "1.2", "1.2.3"))
    assert result.outcome is Outcome.REFUSED
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_that_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    """Sending again after a crash changes nothing, and counts as delivered."""
    sent(tmp_path, instance())
    (file,) = tmp_path.rglob("*.dcm")
    before = file.stat()
    assert sent(tmp_path, instance()) == StoreResult(Outcome.STORED, answer="already there")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_bytes_are_overwritten_only_when_that_is_wanted(tmp_path: Path) -> None:
    """An older file of the same name is kept, unless the destination says that it may be replaced."""
    sent(tmp_path, instance(content=b"old"))
    (file,) = tmp_path.rglob("*.dcm")
    refused = sent(tmp_path, instance(content=b"new"))
    assert refused.outcome is Outcome.REFUSED
    assert "not overwritten" in refused.reason
    assert file.read_bytes().endswith(b"old")
    assert sent(tmp_path, instance(content=b"new"), existing="replace").outcome is Outcome.STORED
    assert file.read_bytes().endswith(b"new")


class Breaking(io.BytesIO):
    """A data set that cannot be read to its end."""

    def read(self, _size: int | None = -1, /) -> bytes:
        """Return one byte, then fail."""
        if self.tell() > 0:
            raise OSError(5, "Input/output error")
        return super().read(1)


def test_half_a_file_never_has_the_name_of_a_whole_one(tmp_path: Path) -> None:
    """What broke half way is invisible to readers, and the next attempt leaves nothing of it."""
    broken = Outgoing(CT, "1.2.3.1", EXPLICIT, lambda: Breaking(b"data set"), {}, "1.2", "1.2.3")
    assert sent(tmp_path, broken).outcome is Outcome.UNAVAILABLE
    assert list(tmp_path.rglob("*.dcm")) == []
    assert sent(tmp_path, instance()).outcome is Outcome.STORED
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["1.2.3.1.dcm"]


def test_the_bytes_and_the_name_are_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after "delivered" must find the file: its bytes, its name, and the folders above it."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    sent(tmp_path, instance())
    assert synced == [tmp_path.name, "1.2", ".1.2.3.1.dcm.bucky-part", "1.2.3"]


@pytest.fixture
def mount() -> Path:
    """A place that is a mount point on every Linux."""
    shared_memory = Path("/dev/shm")  # noqa: S108 - it is the mount point that is wanted
    if not shared_memory.is_mount():
        pytest.skip(f"{shared_memory} is not mounted")
    return shared_memory


def test_a_share_that_is_not_mounted_is_noticed(tmp_path: Path, mount: Path) -> None:
    """Without its share an empty mount point would swallow images on the local disk."""
    result = sent(tmp_path, instance(), mounted=True)
    assert (result.outcome, result.retry_after) == (Outcome.UNAVAILABLE, 30.0)
    assert f"nothing is mounted at {tmp_path}" in result.reason
    assert list(tmp_path.iterdir()) == []
    name = f"bucky-{secrets.token_hex(6)}-{{SOPInstanceUID}}.dcm"
    try:
        assert sent(mount, instance(), mounted=True, path=name).outcome is Outcome.STORED
    finally:
        (mount / name.format(SOPInstanceUID="1.2.3.1")).unlink()


def test_a_folder_that_is_not_there_is_never_made(tmp_path: Path) -> None:
    """A typing error, or a share that is gone, must be seen and not hidden by a new folder."""
    result = sent(tmp_path / "share", instance())
    assert result.outcome is Outcome.UNAVAILABLE
    assert "there is no folder" in result.reason
    assert list(tmp_path.iterdir()) == []


def test_a_link_leads_no_instance_out_of_the_folder(tmp_path: Path) -> None:
    """What may be written to was decided for the folder, and whoever can write to a share can put a link there."""
    (tmp_path / "there").mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "there" / "x").symlink_to(tmp_path / "secrets")
    result = sent(tmp_path / "there", instance(), path="x/{SOPInstanceUID}.dcm")
    assert (result.outcome, "leads out of it" in result.reason) == (Outcome.UNAVAILABLE, True)
    assert list((tmp_path / "secrets").iterdir()) == []
