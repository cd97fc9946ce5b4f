"""DCMTK's own senders, unmodified, against the edge."""

import subprocess
from pathlib import Path

import pydicom
import pydicom.data
import pytest

from bucky.text.listeners import Listener, ListenerTls
from local_stack.certificates import ensure_certificates
from local_stack.servers import built
from tests.support.edge.edge_process import ListenerAlone, listener_alone

pytestmark = pytest.mark.peer("dcmtk")

FILES = Path(pydicom.data.__file__).parent / "test_files"
# One of each kind a modality sends: plain in three encodings, deflated, JPEG, JPEG-LS, JPEG 2000, RLE, no pixels.
NAMES = (
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEG2000.dcm",
    "MR_small_RLE.dcm",
    "rtplan.dcm",
    "test-SR.dcm",
)

DEFLATED = "1.2.840.10008.1.2.1.99"
PLAIN = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}


def dcmtk(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of DCMTK's tools, and make sure that it is DCMTK's."""
    path = built(tool)
    assert path is not None
    version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=120, check=False)
    assert "dcmtk" in version.stdout
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120, check=False)


def address(alone: ListenerAlone, called: str = "BUCKY") -> tuple[str, ...]:
    """Return the arguments that name the edge."""
    return ("-aet", "DCMTK", "-aec", called, "127.0.0.1", str(alone.port))


def assert_spooled(alone: ListenerAlone, paths: list[Path]) -> None:
    """Each file is spooled in order, with its own pixels; a sender may choose between plain encodings."""
    spooled = alone.records()
    assert len(spooled) == len(paths)
    for path, (record, data_set) in zip(paths, spooled, strict=True):
        sent = pydicom.dcmread(path)
        assert record.sop_instance_uid == sent.SOPInstanceUID
        assert record.calling_aet == "DCMTK"
        syntaxes = {record.transfer_syntax_uid, str(sent.file_meta.TransferSyntaxUID)}
        assert len(syntaxes) == 1 or syntaxes <= PLAIN
        # Deflated bytes are DCMTK's own; big endian pixels may have been swapped.
        if len(syntaxes) == 1 and DEFLATED not in syntaxes and "PixelData" in sent:
            assert sent.PixelData[-200:-20] in data_set


def test_echoscu(tmp_path: Path) -> None:
    """DCMTK's C-ECHO succeeds with the right called AE title, and is rejected with a wrong one."""
    with listener_alone(tmp_path) as alone:
        assert dcmtk("echoscu", *address(alone)).returncode == 0
        wrong = dcmtk("echoscu", *address(alone, "WRONG"))
        assert wrong.returncode != 0
        assert "Called AE Title Not Recognized" in wrong.stderr


def test_dcmsend_sends_everything_over_one_association(tmp_path: Path) -> None:
    """dcmsend delivers files of many transfer syntaxes without decompressing any."""
    paths = [FILES / name for name in NAMES]
    with listener_alone(tmp_path) as alone:
        sent = dcmtk("dcmsend", "--decompress-never", *address(alone), *map(str, paths))
        assert sent.returncode == 0, sent.stderr
        assert_spooled(alone, paths)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("-x=", "CT_small.dcm"),
        ("-xi", "MR_small_implicit.dcm"),
        ("-xb", "MR_small_bigendian.dcm"),
        ("-xd", "image_dfl.dcm"),
        ("-xy", "SC_rgb_jpeg_dcmtk.dcm"),
        ("-xt", "MR_small_jpeg_ls_lossless.dcm"),
        ("-xv", "MR_small_jp2klossless.dcm"),
        ("-xr", "MR_small_RLE.dcm"),
    ],
)
def test_storescu_in_each_transfer_syntax(tmp_path: Path, option: str, name: str) -> None:
    """storescu stores in each transfer syntax it can propose."""
    with listener_alone(tmp_path) as alone:
        sent = dcmtk("storescu", option, *address(alone), str(FILES / name))
        assert sent.returncode == 0, sent.stderr
        assert_spooled(alone, [FILES / name])


def test_storescu_over_tls(tmp_path: Path) -> None:
    """DCMTK stores over TLS when it trusts the listener's authority."""
    files = ensure_certificates(tmp_path / "tls")
    tls = ListenerTls(cert_file=files.cert, key_file=files.key)
    path = FILES / "CT_small.dcm"
    with listener_alone(tmp_path, Listener(port=0, tls=tls)) as alone:
        sent = dcmtk("storescu", "+tla", "+cf", str(files.ca), *address(alone), str(path))
        assert sent.returncode == 0, sent.stderr
        assert_spooled(alone, [path])


def test_a_refusal_reaches_the_sender(tmp_path: Path) -> None:
    """An instance that cannot be kept makes storescu fail with the edge's status."""
    without = pydicom.dcmread(FILES / "CT_small.dcm")
    del without.StudyInstanceUID
    without.save_as(tmp_path / "without.dcm")
    with listener_alone(tmp_path) as alone:
        sent = dcmtk("storescu", "-d", *address(alone), str(tmp_path / "without.dcm"))
        assert "0xc000" in (sent.stdout + sent.stderr).lower()
        assert "StudyInstanceUID is missing" in sent.stdout + sent.stderr
        assert alone.instances == 0
