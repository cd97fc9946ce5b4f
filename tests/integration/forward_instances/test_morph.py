"""Forwarding what a rule changes on the way: a real SCP gets it changed, and the kept object stays as it was."""

import hashlib
import time
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from sqlalchemy import create_engine, text

from bucky.cloudevents import CloudEvent
from bucky.deciding.requests import facts_of, requests_of
from bucky.dicom.part10 import FileMeta, file_header, split
from bucky.events import DeliveryCompleted, payload_of
from bucky.forwarding import Secrets, Senders
from bucky.index import DeliveryRow, DeliveryState, Index
from bucky.routing.crosswalk import Crosswalks
from bucky.routing.document import Routing
from bucky.serve.contract import BatchResult
from bucky.store.keys import object_key
from bucky.store.objects import MemoryObjectStore, put_bytes
from bucky.text.identifiers import delivery_id
from bucky.trace import new_traceparent
from local_stack.destination import Destination, ScriptedAnswer
from tests.support.functions.forwarding import forward
from tests.support.index.rows import received

SENDERS = Senders(Secrets(Path("/nonexistent")))
ROUTING = """
destinations:
  - {name: pacs, type: dimse, aet: DEMO, host: 127.0.0.1, port: PORT}
crosswalks:
  - {name: ids, type: csv, file: ids.csv}
rules:
  - name: ward
    morph:
      - {crosswalk: PatientID, table: ids}
      - {prepend: StudyID, value: W-}
    destinations: [pacs]
"""


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    """A crosswalk that knows the patient of CT_small."""
    file = tmp_path / "ids.csv"
    file.write_text("key,value\n1CT1,H-0815\n")
    return file


class Sender:
    """The pieces between a decision and the destination."""

    def __init__(self, index: Index, folder: Path) -> None:
        self.index = index
        self.objects = MemoryObjectStore()
        self.crosswalks = Crosswalks(folder)
        self.file = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()

    def decide(self) -> CloudEvent:
        """Store CT_small and ask the rules in force about it."""
        with pydicom.dcmread(Path(str(get_testdata_file("CT_small.dcm")))) as file:
            data_set = self.file[144 + file.file_meta.FileMetaInformationGroupLength :]
            meta = FileMeta(file.SOPClassUID, file.SOPInstanceUID, file.file_meta.TransferSyntaxUID)
            study, series = str(file.StudyInstanceUID), str(file.SeriesInstanceUID)
        digest, stored = hashlib.sha256(data_set).hexdigest(), file_header(meta) + data_set
        key = object_key(study, series, meta.sop_instance_uid, digest)
        put_bytes(self.objects, key, stored)
        instance = received(
            "ct",
            study_instance_uid=study,
            series_instance_uid=series,
            sop_instance_uid=meta.sop_instance_uid,
            sop_class_uid=meta.sop_class_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            sha256=digest,
            size=len(stored),
            key=key,
        )
        (request,) = requests_of(instance, facts_of(instance, {}), self.index.routing())
        return CloudEvent.of(request, source="/test", traceparent=new_traceparent())

    def send(self, event: CloudEvent) -> BatchResult:
        """Carry the delivery out."""
        return forward([event], self.objects, self.index, SENDERS, self.crosswalks)

    def row(self, event: CloudEvent) -> DeliveryRow:
        """Return how the delivery stands."""
        return self.index.delivery(event.id)


def route(index: Index, port: int, old: str = "", new: str = "") -> None:
    """Put the rule in force."""
    document = Routing.from_yaml(ROUTING.replace("PORT", str(port)).replace(old, new))
    index.save_routing(document, index.routing().version, "test")


def test_the_destination_gets_it_changed_and_the_kept_object_stays(index: Index, ids: Path, tmp_path: Path) -> None:
    """What arrives has the new values, the record of the old ones and the same pixels; its digest is on record."""
    sender = Sender(index, ids.parent)
    with Destination(tmp_path / "received") as destination:
        route(index, destination.port)
        event = sender.decide()
        result = sender.send(event)
        ((digest, path),) = destination.received().items()
    assert result.failures == ()
    arrived = pydicom.dcmread(path)
    kept = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    assert (arrived.PatientID, arrived.StudyID) == ("H-0815", "W-1CT1")
    assert arrived.PixelData == kept.PixelData
    assert arrived.SOPInstanceUID == kept.SOPInstanceUID
    modified = arrived.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
    assert (modified.PatientID, modified.StudyID) == (kept.PatientID, kept.StudyID)
    assert arrived.OriginalAttributesSequence[0].ModifyingSystem == "BUCKY ward v1"
    row = sender.row(event)
    assert (row.state, row.sent_sha256) == (DeliveryState.DELIVERED, digest)
    completed = payload_of(result.events[0])
    assert isinstance(completed, DeliveryCompleted)
    assert completed.sent_sha256 == digest != completed.instance.sha256
    (key,) = sender.objects.keys()
    stored = sender.objects.get(key)
    assert hashlib.sha256(stored[split(stored)[1] :]).hexdigest() == row.sha256


def test_any_kind_of_destination_gets_it_changed_at_its_pace(index: Index, ids: Path, tmp_path: Path) -> None:
    """A rule's changes do not depend on how the copy travels; what is on record is what lies there."""
    sender = Sender(index, ids.parent)
    (tmp_path / "folder").mkdir()
    dimse = "type: dimse, aet: DEMO, host: 127.0.0.1, port: 104"
    route(index, 104, dimse, f"type: folder, folder: {tmp_path / 'folder'}, max_bytes_per_second: 50000")
    event, began = sender.decide(), time.monotonic()
    assert sender.send(event).failures == ()
    index.redriven([event.id])
    assert sender.send(event).failures == ()
    assert time.monotonic() - began > 0.7, "the second time 38 KB had to wait for those before"
    (path,) = (tmp_path / "folder").rglob("*.dcm")
    content = path.read_bytes()
    assert pydicom.dcmread(path).PatientID == "H-0815"
    assert sender.row(event).sent_sha256 == hashlib.sha256(content[split(content)[1] :]).hexdigest()


def test_trying_again_sends_the_same_bytes(index: Index, ids: Path, tmp_path: Path) -> None:
    """A delivery repeated after a crash shows the destination no second version of the instance."""
    sender = Sender(index, ids.parent)
    with Destination(tmp_path / "received") as destination:
        route(index, destination.port)
        event = sender.decide()
        sender.send(event)
        index.redriven([event.id])
        sender.send(event)
        assert destination.count == 2
        assert len(destination.received()) == 1


def test_the_table_that_a_copy_was_changed_by_is_on_record(index: Index, ids: Path, tmp_path: Path) -> None:
    """A table that changed between two attempts is seen: each names the version it looked values up in."""
    sender, first = Sender(index, ids.parent), ids.read_bytes()
    second = b"key,value\n1CT1,H-0816\nanother,H-1\n"
    with Destination(
        tmp_path / "received", script=lambda one: ScriptedAnswer(0xA700 if one.number == 1 else 0)
    ) as destination:
        route(index, destination.port)
        event = sender.decide()
        assert [one.retryable for one in sender.send(event).failures] == [True]
        ids.write_bytes(second)
        assert sender.send(event).failures == ()
        (path,) = destination.received().values()
        assert pydicom.dcmread(path).PatientID == "H-0816"
    before, after = (f"(crosswalks: ids {hashlib.sha256(one).hexdigest()[:12]})" for one in (first, second))
    steps = {step.step: str(step.detail) for step in index.timeline(sender.row(event).sha256)}
    assert steps["retrying"].endswith(before)
    assert steps["delivered"].endswith(after)


def test_an_instance_that_the_crosswalk_does_not_know_is_not_sent(index: Index, ids: Path, tmp_path: Path) -> None:
    """Sending a patient under the wrong number is worse than not sending: it fails for good, without the number."""
    ids.write_text("key,value\nother,H-1\n")
    sender = Sender(index, ids.parent)
    with Destination(tmp_path / "received") as destination:
        route(index, destination.port)
        event = sender.decide()
        (failure,) = sender.send(event).failures
        assert destination.count == 0
    assert (failure.retryable, sender.row(event).state) == (False, DeliveryState.FAILED)
    assert "'ids' has no entry" in failure.reason
    assert "1CT1" not in failure.reason


def test_an_instance_waits_for_its_crosswalk(index: Index, ids: Path, tmp_path: Path) -> None:
    """While the table is missing nothing is sent and nothing is lost; once it is there, the instance goes."""
    ids.rename(tmp_path / "away.csv")
    sender = Sender(index, ids.parent)
    with Destination(tmp_path / "received") as destination:
        route(index, destination.port)
        event = sender.decide()
        (failure,) = sender.send(event).failures
        assert (failure.retryable, sender.row(event).state) == (True, DeliveryState.RETRYING)
        assert "BUCKY_CROSSWALK_DIR" in failure.reason
        (tmp_path / "away.csv").rename(ids)
        assert sender.send(event).failures == ()
        assert sender.row(event).state is DeliveryState.DELIVERED


def test_a_crosswalk_can_be_a_database(index: Index, tmp_path: Path) -> None:
    """A query finds the new value in a database whose address only a file knows."""
    engine = create_engine(f"sqlite:///{tmp_path / 'ris.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ids (old TEXT, new TEXT)"))
        connection.execute(text("INSERT INTO ids VALUES ('1CT1', 'R-7'), ('twice', 'a'), ('twice', 'b')"))
    engine.dispose()
    (tmp_path / "ris.url").write_text(f"sqlite:///{tmp_path / 'ris.db'}\n")
    sender = Sender(index, tmp_path)
    query = "type: sql, url_file: ris.url, query: SELECT new FROM ids WHERE old = :value"
    with Destination(tmp_path / "received") as destination:
        route(index, destination.port, "type: csv, file: ids.csv", query)
        assert sender.send(sender.decide()).failures == ()
        (path,) = destination.received().values()
        assert pydicom.dcmread(path).PatientID == "R-7"
        assert index.deliveries()[0].crosswalks == "ids queried"
        route(index, destination.port, "type: csv, file: ids.csv", query.replace(":value", "'twice' OR old = :value"))
        (ambiguous,) = sender.send(sender.decide()).failures
        assert (ambiguous.retryable, "more than one entry" in ambiguous.reason) == (False, True)
        route(index, destination.port, "type: csv, file: ids.csv", query.replace("ids", "nothing"))
        (broken,) = sender.send(sender.decide()).failures
        assert (broken.retryable, "1CT1" in broken.reason) == (True, False)
    sender.crosswalks.close()


def test_without_what_is_to_be_changed_nothing_is_sent(index: Index, ids: Path, tmp_path: Path) -> None:
    """An instance that was to be changed never goes unchanged because its request or its rule lost what to change."""
    sender = Sender(index, ids.parent)
    with Destination(tmp_path / "received") as destination:
        route(index, destination.port)
        event = sender.decide()
        data: dict[str, Any] = event.data
        lost = event.model_copy(update={"data": data | {"morph_sha256": None}})
        (failure,) = sender.send(lost).failures
        assert "do not agree" in failure.reason
        other = delivery_id(data["instance"]["sha256"], "pacs", 1, "0" * 64)
        unknown = {**data, "morph_sha256": "0" * 64, "delivery_id": other}
        (second,) = sender.send(event.model_copy(update={"id": other, "data": unknown})).failures
        assert "not known any more" in second.reason
        assert (failure.retryable, second.retryable, destination.count) == (False, False, 0)
