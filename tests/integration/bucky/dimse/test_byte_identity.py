"""The data set that arrives is the data set that was sent, in every transfer syntax there is."""

import hashlib
import io
import random
import ssl
from collections import Counter
from pathlib import Path

import pytest
from pynetdicom import ALL_TRANSFER_SYNTAXES

from bucky.cli.send_files import Sent, send
from bucky.dicom.part10 import split
from bucky.dimse import Outcome, Outgoing, Peer, store_all
from local_stack.certificates import ensure_certificates
from local_stack.demo_data import Expected, demo_files
from local_stack.destination import Destination
from local_stack.servers import built
from tests.support.network.network_alone import run_alone

CT = "1.2.840.10008.5.1.4.1.1.2"


def noise(size: int, seed: int) -> bytes:
    """Return bytes that no decoder would survive: whoever looks into them gives itself away."""
    return random.Random(seed).randbytes(size)


def outgoing(number: int, content: bytes, syntax: str) -> Outgoing:
    """Return an instance with these data set bytes."""
    return Outgoing(CT, f"1.2.3.{number}", syntax, lambda: io.BytesIO(content))


def test_any_bytes_pass_in_any_transfer_syntax(tmp_path: Path) -> None:
    """Nothing on the way decodes, deflates, swaps or pads: odd lengths and garbage arrive as they are."""
    contents = [noise(5000 + number, number) for number in range(len(ALL_TRANSFER_SYNTAXES))]
    items = [outgoing(n, contents[n], syntax) for n, syntax in enumerate(ALL_TRANSFER_SYNTAXES)]
    with Destination(tmp_path) as destination:
        results = store_all(Peer("DEMO", "127.0.0.1", destination.port), items, associations=2)
        assert {result.outcome for result in results} == {Outcome.STORED}
        assert destination.received().keys() == {hashlib.sha256(content).hexdigest() for content in contents}
    for path in tmp_path.glob("*/*.dcm"):
        meta, _offset = split(path.read_bytes())
        assert meta.transfer_syntax_uid == ALL_TRANSFER_SYNTAXES[int(path.parent.name.rsplit(".", 1)[1])]


def test_real_files_arrive_as_they_are(tmp_path: Path) -> None:
    """Every instance among pydicom's files, odd ones too, has the same SHA-256 at both ends."""
    files = demo_files(tmp_path / "files")
    with Destination(tmp_path / "received") as destination:
        report = send([tmp_path / "files"], Peer("DEMO", "127.0.0.1", destination.port))
        received = destination.received()
    sent = [result for result in report.results if result.outcome is Sent.SENT]
    assert {result.sha256 for result in sent} == received.keys()
    assert {file.sha256 for file in files if file.expected is Expected.ACCEPTED} <= received.keys()
    assert len({result.transfer_syntax_uid for result in sent}) >= 10


def test_a_large_instance_arrives_whole(tmp_path: Path) -> None:
    """An instance of many fragments is put together as it was, the last odd byte included."""
    content = noise(20_000_001, 1)
    with Destination(tmp_path) as destination:
        (result,) = store_all(
            Peer("DEMO", "127.0.0.1", destination.port), [outgoing(1, content, "1.2.840.10008.1.2.1")]
        )
        assert result.outcome is Outcome.STORED
        assert list(destination.received()) == [hashlib.sha256(content).hexdigest()]


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_is_used_and_the_certificate_checked(tmp_path: Path, trusted: bool) -> None:
    """Patients' data goes to who holds the right certificate, and to nobody else."""
    certificates = ensure_certificates(tmp_path / "tls", ["127.0.0.1"])
    others = ensure_certificates(tmp_path / "others", ["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    content = noise(300_001, 2)
    ca_file = (certificates if trusted else others).ca
    with Destination(tmp_path / "received", tls=context) as destination:
        peer = Peer("DEMO", "127.0.0.1", destination.port, tls_ca_file=ca_file)
        (result,) = store_all(peer, [outgoing(1, content, "1.2.840.10008.1.2.1")])
        received = destination.received()
    if trusted:
        assert (result.outcome, list(received)) == (Outcome.STORED, [hashlib.sha256(content).hexdigest()])
    else:
        assert (result.outcome, received) == (Outcome.UNAVAILABLE, {})
        assert "certificate is not valid" in result.reason


DCMTK_SCRIPT = """
import json, socket, subprocess, sys, time
from pathlib import Path
from bucky.dimse import Peer
from bucky.cli.send_files import send
storescp, files, received = sys.argv[1:]
server = subprocess.Popen([storescp, "+B", "+xa", "-od", received, "11112"])
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    try:
        socket.create_connection(("127.0.0.1", 11112), 1).close()
        break
    except OSError:
        pass
report = send([Path(files)], Peer("STORESCP", "127.0.0.1", 11112), associations=1)
server.terminate()
server.wait()
print(json.dumps([[r.outcome, r.sha256, r.transfer_syntax_uid, r.reason] for r in report.results]))
"""


@pytest.mark.peer("dcmtk")
def test_dcmtk_receives_the_same_bytes(tmp_path: Path) -> None:
    """A receiver that is not ours, writing what it gets bit by bit, gets what we sent."""
    storescp = built("storescp")
    demo_files(tmp_path / "files")
    (tmp_path / "received").mkdir()
    results = run_alone(DCMTK_SCRIPT, storescp, tmp_path / "files", tmp_path / "received")
    sent = {sha256: syntax for outcome, sha256, syntax, _ in results if outcome == Sent.SENT}
    received = set()
    for path in (tmp_path / "received").iterdir():
        content = path.read_bytes()
        received.add(hashlib.sha256(content[split(content)[1] :]).hexdigest())
    assert received <= sent.keys()
    # Instances that share a SOP Instance UID overwrite each other in storescp's folder.
    assert len(received) >= 150, Counter((outcome, reason) for outcome, _, _, reason in results)
    assert len({sent[sha256] for sha256 in received}) >= 10
