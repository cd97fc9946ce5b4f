"""Storage commitment by Orthanc, an archive that is not ours: it reports over an association of its own."""

from pathlib import Path

import pytest

from local_stack.servers import built
from tests.support.network.network_alone import run_alone

SCRIPT = """
import json, subprocess, sys, time
from pathlib import Path
import httpx
from bucky.events import DeliveryRequested
from bucky.forwarding import Secrets, Senders
from bucky.index import Index, IndexedInstance
from bucky.store.objects import MemoryObjectStore
from bucky.dicom.part10 import split
from tests.support.functions.commitment_world import MemoryLink, commit, reports_into
from tests.support.destinations.destination_worlds import model
from tests.support.functions.forwarding import forward, request, save_destination
from tests.support.dicom.sample_instances import samples
from tests.support.edge.upper_layer_world import stage
from tests.support.waiting import eventually
orthanc, folder = sys.argv[1], Path(sys.argv[2])
link = MemoryLink()
with stage(reports=reports_into(link)) as edge:
    Path(folder, "orthanc.json").write_text(json.dumps({
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": 8042,
        "AuthenticationEnabled": False, "DicomAet": "ORTHANC", "DicomPort": 4242,
        "DicomModalities": {"bucky": {"AET": "BUCKY", "Host": "127.0.0.1", "Port": edge.port}}}))
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([orthanc, "--verbose", folder / "orthanc.json"], stdout=log, stderr=log)
    client = httpx.Client(base_url="http://127.0.0.1:8042", trust_env=False)
    def ready():
        try:
            return client.get("/system").status_code == 200
        except httpx.TransportError:
            return False
    eventually(ready, "Orthanc answers")
    index = Index.open(f"sqlite:///{folder / 'bucky.db'}")
    index.migrate()
    save_destination(index, model(name="pacs", type="dimse", aet="ORTHANC", host="127.0.0.1", port=4242,
        commitment={"linger_seconds": 0, "resend_after_seconds": 0}))
    objects, senders = MemoryObjectStore(), Senders(Secrets(folder))
    events = []
    for number, sample in enumerate(samples(3), 1):
        with sample.outgoing.content() as content:
            event = request(objects, number, sample.outgoing.sop_class_uid, data_set=content.read(),
                uid=sample.outgoing.sop_instance_uid)
        instance = DeliveryRequested.model_validate(event.data).instance
        index.upsert_instances([IndexedInstance(instance, {})])
        events.append(event)
    def states():
        return [index.delivery(event.id).state for event in events]
    def settled(asking):
        assert commit([asking], index).failures == ()
        eventually(lambda: bool(link.events), "Orthanc reported")
        told, link.events = link.events, []
        commit(told, index)
    told = {}
    (asking,) = forward(events, objects, index, senders).events
    told["sent"] = states()
    # Somebody deletes one before it is committed to.
    uid = DeliveryRequested.model_validate(events[1].data).instance.sop_instance_uid
    (gone,) = client.post("/tools/lookup", content=uid).json()
    client.delete(f"/instances/{gone['ID']}").raise_for_status()
    settled(asking)
    told["reported"] = states()
    told["reason"] = index.delivery(events[1].id).reason
    (asking,) = forward([events[1]], objects, index, senders).events
    settled(asking)
    told["again"] = states()
    server.terminate()
    server.wait()
    senders.close()
    index.close()
print(json.dumps(told))
"""


@pytest.mark.peer("orthanc")
def test_orthanc_commits_and_what_it_lost_is_sent_again(tmp_path: Path) -> None:
    """A real archive's report reaches the deliveries: two are delivered, and the one deleted there goes once more."""
    told = run_alone(SCRIPT, built("Orthanc"), tmp_path)
    assert told["sent"] == ["uncommitted"] * 3
    assert told["reported"] == ["delivered", "retrying", "delivered"]
    assert told["reason"] == "the destination did not commit to keeping it: 0x0112, no such object instance"
    assert told["again"] == ["delivered"] * 3
