"""Sending by STOW-RS to Orthanc, a server that is not ours."""

from pathlib import Path

import pytest

from local_stack.servers import built
from tests.support.network.network_alone import run_alone

ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ORTHANC_SCRIPT = """
import json, socket, subprocess, sys, time
from functools import partial
from pathlib import Path
from bucky.routing.destinations import StowDestination
from bucky.forwarding import Secrets
from bucky.forwarding.stow import StowSender
from tests.support.dicom.sample_instances import samples
from bucky.dimse.outgoing import Outgoing
import httpx, io
orthanc, plugin, folder = sys.argv[1:]
Path(folder, "orthanc.json").write_text(json.dumps({
    "StorageDirectory": folder, "IndexDirectory": folder, "HttpPort": 8042, "DicomServerEnabled": False,
    "Plugins": [plugin], "DicomWeb": {"Enable": True},
    "RegisteredUsers": {"bucky": "s3cret"}, "AuthenticationEnabled": True}))
Path(folder, "destination-orthanc").write_text("s3cret")
with open(Path(folder, "log"), "wb") as log:
    server = subprocess.Popen([orthanc, Path(folder, "orthanc.json")], stdout=log, stderr=log)
client = httpx.Client(base_url="http://127.0.0.1:8042", auth=("bucky", "s3cret"), trust_env=False, timeout=120)
deadline = time.monotonic() + 120
while time.monotonic() < deadline:
    try:
        client.get("/system")
        break
    except httpx.TransportError:
        time.sleep(0.05)
destination = StowDestination(name="orthanc", type="stow", url="http://127.0.0.1:8042/dicom-web",
    auth={"type": "basic", "username": "bucky", "password_secret": "destination-orthanc"}, instances_per_request=10)
sender = StowSender(destination, Secrets(Path(folder)))
sent = samples(25)
items = [one.outgoing for one in sent]
items.insert(13, Outgoing(items[0].sop_class_uid, "1.2.3", items[0].transfer_syntax_uid, partial(io.BytesIO, b"no")))
results = [sender.send(items, seconds=600) for _ in range(2)]
held = [client.get(f"/instances/{one}/file").content for one in client.get("/instances").json()]
server.terminate()
server.wait()
from tests.support.destinations.destination_worlds import data_set_sha256
print(json.dumps({
    "results": [[[r.outcome, r.answer, r.reason] for r in batch] for batch in results],
    "sent": sorted(one.sha256 for one in sent), "held": sorted(map(data_set_sha256, held))}))
"""


@pytest.mark.peer("orthanc")
@pytest.mark.skipif(not ORTHANC_PLUGIN.exists(), reason="orthanc-dicomweb is not installed: run `make test-peers`")
def test_orthanc_takes_what_is_sent_and_says_what_is_wrong(tmp_path: Path) -> None:
    """A server that is not ours holds the same data sets, twice sent too, and its refusal is read as one."""
    orthanc = built("Orthanc")
    told = run_alone(ORTHANC_SCRIPT, orthanc, ORTHANC_PLUGIN, tmp_path)
    for batch in told["results"]:
        assert [outcome for outcome, _, _ in batch] == [
            *["stored"] * 13,
            "refused",
            *["stored"] * 12,
        ], batch
        # Orthanc refuses a request whole when one file in it is no DICOM: each was then sent alone.
        assert batch[13][:2] == ["refused", "HTTP 400"]
    assert told["held"] == told["sent"]
