"""The demo destination as the stack runs it: a process of its own, called by others' senders too."""

import hashlib
import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom.data
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from bucky.dicom.part10 import split
from bucky.dimse import Outcome, Outgoing, Peer, StoreResult, store_all
from bucky.runtime.ports import free_port
from local_stack.destination import Destination, received, storage_sop_classes
from local_stack.process import tcp_open
from local_stack.servers import built

CT_SMALL = Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm"
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@contextmanager
def running(folder: Path, *options: str) -> Iterator[tuple[Peer, "subprocess.Popen[bytes]"]]:
    """Run the destination as a process until the block ends."""
    port = free_port()
    command = [sys.executable, "-m", "local_stack.destination", "--port", str(port), "--dir", str(folder), *options]
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + 20
            while not tcp_open("127.0.0.1", port)():
                assert process.poll() is None
                assert time.monotonic() < deadline
            yield Peer("DEMO", "127.0.0.1", port), process
        finally:
            process.terminate()
            process.wait(10)


def instance(number: int, content: bytes = b"data") -> Outgoing:
    """Return an instance with these data set bytes."""
    return Outgoing(CT, f"1.2.3.{number}", EXPLICIT, lambda: io.BytesIO(content))


def test_the_process_keeps_what_it_gets_and_ends_in_good_order(tmp_path: Path) -> None:
    """What was answered as stored is a whole file, twice the same is one, and SIGTERM ends the process with 0."""
    with running(tmp_path / "kept") as (peer, process):
        results = store_all(peer, [instance(1), instance(2), instance(1)])
        assert {result.outcome for result in results} == {Outcome.STORED}
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    digest = hashlib.sha256(b"data").hexdigest()
    kept = sorted(path.relative_to(tmp_path / "kept").as_posix() for path in (tmp_path / "kept").glob("*/*"))
    assert kept == [f"1.2.3.1/{digest}.dcm", f"1.2.3.2/{digest}.dcm"]
    meta, offset = split((tmp_path / "kept" / kept[0]).read_bytes())
    assert (meta.sop_instance_uid, meta.calling_aet, meta.called_aet) == ("1.2.3.1", "BUCKY", "DEMO")
    assert (tmp_path / "kept" / kept[0]).read_bytes()[offset:] == b"data"


def test_the_process_misbehaves_as_it_is_told(tmp_path: Path) -> None:
    """Somebody who tries the stack can see what a full destination looks like."""
    with running(tmp_path, "--every", "3", "--answer", "A700") as (peer, _process):
        outcomes = [result.outcome for result in store_all(peer, [instance(number) for number in range(6)])]
    assert outcomes == [Outcome.STORED, Outcome.STORED, Outcome.UNAVAILABLE] * 2
    assert len(list(tmp_path.glob("*/*"))) == 4


def test_killed_in_the_middle_nothing_is_called_stored_that_is_not_there(tmp_path: Path) -> None:
    """A destination that dies at once leaves its answers true: the rest waits, and a new one takes it."""
    items = [instance(number, number.to_bytes(4, "big") * 1000) for number in range(120)]
    with running(tmp_path) as (peer, process):
        answered: list[int] = []

        def kill_after_40(index: int, _result: StoreResult) -> None:
            answered.append(index)
            if len(answered) == 40:
                process.kill()

        results = store_all(peer, items, associations=2, on_result=kill_after_40)
    stored = [item for item, result in zip(items, results, strict=True) if result.outcome is Outcome.STORED]
    left = [item for item, result in zip(items, results, strict=True) if result.outcome is Outcome.UNAVAILABLE]
    assert len(stored) >= 39
    assert len(left) == 120 - len(stored) > 0
    kept = received(tmp_path).keys()
    assert {hashlib.sha256(item.content().read()).hexdigest() for item in stored} <= kept
    with running(tmp_path) as (peer, _process):
        assert {result.outcome for result in store_all(peer, left)} == {Outcome.STORED}
    assert len(received(tmp_path)) == 120


def test_only_what_was_answered_as_stored_is_kept_by_what_its_bytes_are(tmp_path: Path) -> None:
    """The proof of delivery is the digest computed from the file, not the name somebody gave it."""
    with Destination(tmp_path) as destination:
        store_all(Peer("DEMO", "127.0.0.1", destination.port), [instance(1)])
    (path,) = received(tmp_path).values()
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    assert received(tmp_path).keys() == {hashlib.sha256(b"datX").hexdigest()}


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["../../escape", "..", "1/2"])
def test_a_name_that_is_no_uid_never_becomes_a_path(tmp_path: Path, uid: str) -> None:
    """A sender must not choose where files are written."""
    item = Outgoing(CT, uid, EXPLICIT, lambda: io.BytesIO(b"data"))
    with Destination(tmp_path / "kept") as destination:
        (result,) = store_all(Peer("DEMO", "127.0.0.1", destination.port), [item])
    assert (result.outcome, result.status) == (Outcome.REFUSED, 0xC000)
    assert list(tmp_path.rglob("*.dcm")) == []


def test_retired_classes_are_kept_too(tmp_path: Path) -> None:
    """Old archives are full of retired SOP classes: the destination takes every one of them."""
    classes = storage_sop_classes()
    assert {"1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.5", CT} <= set(classes)
    items = [
        Outgoing(sop_class, f"1.2.{number}", EXPLICIT, lambda: io.BytesIO(b"data"))
        for number, sop_class in enumerate(classes)
    ]
    with Destination(tmp_path) as destination:
        results = store_all(Peer("DEMO", "127.0.0.1", destination.port), items)
    assert {result.outcome for result in results} == {Outcome.STORED}


def test_it_answers_an_echo(tmp_path: Path) -> None:
    """A destination can be asked whether it is there before anything is sent to it."""
    with Destination(tmp_path) as destination:
        ae = AE()
        ae.add_requested_context(Verification)
        association = ae.associate("127.0.0.1", destination.port, ae_title="DEMO")
        assert association.is_established
        assert association.send_c_echo().Status == 0x0000
        association.release()


@pytest.mark.peer("dcmtk")
def test_dcmtk_sends_to_it(tmp_path: Path) -> None:
    """A sender that is not ours finds an ordinary storage SCP."""
    dcmsend = built("dcmsend")
    assert dcmsend is not None
    with Destination(tmp_path) as destination:
        address = ["-aec", "DEMO", "127.0.0.1", str(destination.port)]
        subprocess.run([dcmsend, *address, str(CT_SMALL)], check=True, timeout=120)
        (kept,) = destination.received().values()
    # Not the same bytes: dcmsend decodes what it sends and leaves the trailing padding out.
    assert pydicom.dcmread(kept).PixelData == pydicom.dcmread(CT_SMALL).PixelData
