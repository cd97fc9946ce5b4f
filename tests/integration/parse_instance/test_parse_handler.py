"""parse-instance against a real index: what is stored is indexed, whatever the store, the file or the crash."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest

from bucky.cloudevents import CloudEvent, utc_now
from bucky.dicom.part10 import FileMeta, file_header, split
from bucky.errors import IndexUnavailable, InvalidInstance, Permanent, Retriable, StoreUnavailable
from bucky.events import InstanceStored
from bucky.index import Index, StudyQuery
from bucky.log import get_logger
from bucky.runtime.ports import free_port
from bucky.serve.contract import BatchResult
from bucky.serve.handlers import Context, load_handler
from bucky.settings import Settings
from bucky.store.keys import object_key
from bucky.store.objects import MemoryObjectStore, ObjectStore, S3ObjectStore, put_bytes
from parse_instance.handler import handle_batch

pytestmark = pytest.mark.index

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
CONTEXT = Context("parse-instance", get_logger("test"))
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


def test_real_instances_from_a_real_store(index: Index, store_settings: Settings) -> None:
    """Every bundled file that can be received is indexed from S3, in one batch, under the UIDs of its event."""
    store = S3ObjectStore(store_settings)
    events = [_stored_file(path, store) for path in sorted(TEST_FILES.glob("*.dcm")) if _is_instance(path)]
    assert len(events) >= 60
    result = handle_batch(events, CONTEXT, store, index)
    assert result.failures == ()
    assert len(result.events) == len(events)
    assert _types(result) <= {"dicom.instance.indexed", "dicom.instance.conflicted"}
    counts = index.counts()
    assert counts.instances + counts.conflicts == len({_data(event)["sha256"] for event in events})
    found = index.search_studies(StudyQuery(patient_name="CompressedSamples^CT1"))
    assert {row.modalities for row in found} == {("CT",)}


def test_twice_heals_a_crash(index: Index) -> None:
    """A batch that comes again, as after a crash before its events were published, returns the same events."""
    store = MemoryObjectStore()
    event = _stored_file(TEST_FILES / "CT_small.dcm", store)
    first, second = (handle_batch([event], CONTEXT, store, index) for _ in range(2))
    assert [one.nats_msg_id for one in second.events] == [one.nats_msg_id for one in first.events]
    assert _data(second.events[0]) == _data(event)
    assert index.counts().instances == 1


def test_the_trace_goes_on(index: Index) -> None:
    """The event that says indexed is in the trace of the association, and so is the row."""
    store = MemoryObjectStore()
    event = _stored_file(TEST_FILES / "CT_small.dcm", store)
    (indexed,) = handle_batch([event], CONTEXT, store, index).events
    assert indexed.traceparent is not None
    assert indexed.traceparent.split("-")[1] == "ab" * 16
    assert index.instance(_data(event)["sha256"]).trace_id == "ab" * 16


def test_a_conflict_is_an_event(index: Index) -> None:
    """Other bytes under a known SOP Instance UID are said to conflict, with the digest they conflict with."""
    store = MemoryObjectStore()
    content = (TEST_FILES / "CT_small.dcm").read_bytes()
    first = _stored(content, store)
    second = _stored(content.replace(b"CompressedSamples^CT1", b"CompressedSamples^CT2"), store)
    handle_batch([first], CONTEXT, store, index)
    (event,) = handle_batch([second], CONTEXT, store, index).events
    assert (event.type, _data(event)["existing_sha256"]) == ("dicom.instance.conflicted", _data(first)["sha256"])
    assert index.study(_data(first)["study_instance_uid"]).patient_name == "CompressedSamples^CT1"


@pytest.mark.parametrize("content", [b"no DICOM at all", b"", b"\0" * 200])
def test_an_unreadable_header_is_indexed_and_said_so(index: Index, content: bytes) -> None:
    """An instance whose header nobody can read is in the index by its UIDs, with the reason, and goes on."""
    store = MemoryObjectStore()
    event = _stored(file_header(FileMeta("1.2", "1.9", "1.2.840.10008.1.2.1")) + b"\x10\x00", store, damage=content)
    result = handle_batch([event], CONTEXT, store, index)
    assert (result.failures, _types(result)) == ((), {"dicom.instance.indexed"})
    assert index.instance(_data(event)["sha256"]).header_error


@pytest.mark.parametrize(("name", "cut"), [("CT_small.dcm", 200), ("MR_small_RLE.dcm", 3000), ("JPEG2000.dcm", 8)])
def test_what_is_cut_short_is_kept_and_shown_as_damaged(index: Index, name: str, cut: int) -> None:
    """A data set that ends within its pixels, compressed or not, is in the index, and its study says how many are."""
    store = MemoryObjectStore()
    content = (TEST_FILES / name).read_bytes()
    whole, damaged = _stored(content, store), _stored(content[:-cut].replace(b"1.3.6", b"1.3.7"), store)
    handle_batch([whole], CONTEXT, store, index)
    assert not index.instance(_data(whole)["sha256"]).damaged
    handle_batch([damaged], CONTEXT, store, index)
    row = index.instance(_data(damaged)["sha256"])
    assert row.damaged
    assert "cut short" in (row.header_error or "")
    assert index.study(row.study_instance_uid).damaged_count == 1
    assert index.counts().damaged == 1


@pytest.mark.parametrize(("left", "problem"), [(32766, "has 32766 of the 32768 bytes"), (None, "without (7FE0,0010)")])
def test_pixels_that_are_missing_are_shown_as_damage(index: Index, left: int | None, problem: str) -> None:
    """Every length agrees, but the image is not whole: its study says so, and its bytes are kept and go on."""
    store = MemoryObjectStore()
    dataset = pydicom.dcmread(TEST_FILES / "CT_small.dcm")
    if left is None:
        del dataset.PixelData
    else:
        dataset.PixelData = dataset.PixelData[:left]
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset)
    event = _stored(target.getvalue(), store)
    result = handle_batch([event], CONTEXT, store, index)
    assert _types(result) == {"dicom.instance.indexed"}
    row = index.instance(_data(event)["sha256"])
    assert row.damaged
    assert problem in (row.header_error or "")
    assert (index.study(row.study_instance_uid).damaged_count, index.counts().damaged) == (1, 1)
    assert store.get(row.key) == target.getvalue()


def test_one_missing_object_fails_alone(index: Index) -> None:
    """An object the store does not have is tried again later; the rest of its batch is indexed now."""
    store = MemoryObjectStore()
    there = _stored_file(TEST_FILES / "CT_small.dcm", store)
    gone = _stored_file(TEST_FILES / "MR_small.dcm", MemoryObjectStore())
    result = handle_batch([gone, there], CONTEXT, store, index)
    assert [(one.item_identifier, one.retryable) for one in result.failures] == [(gone.id, True)]
    assert [one.id for one in result.events] == [there.id]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), Permanent("AccessDenied")])
def test_trouble_with_the_store_never_blames_the_instance(index: Index, error: Exception) -> None:
    """An outage, or keys that were changed, is retriable: no instance becomes a dead letter for it."""

    class Trouble(MemoryObjectStore):
        def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:  # noqa: ARG002
            raise error

    event = _stored_file(TEST_FILES / "CT_small.dcm", MemoryObjectStore())
    result = handle_batch([event], CONTEXT, Trouble(), index)
    assert [one.retryable for one in result.failures] == [True]
    assert index.counts().instances == 0


def test_an_index_that_is_away_is_retriable() -> None:
    """With the database down the whole batch is tried again, and no event says that anything was indexed."""
    store = MemoryObjectStore()
    event = _stored_file(TEST_FILES / "CT_small.dcm", store)
    away = Index.open(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none")
    with pytest.raises(IndexUnavailable) as raised:
        handle_batch([event], CONTEXT, store, away)
    assert isinstance(raised.value, Retriable)


def test_a_foreign_event_is_refused_alone(index: Index) -> None:
    """An event of another type, or with data that does not match, is refused for good and hinders no other."""
    store = MemoryObjectStore()
    good = _stored_file(TEST_FILES / "CT_small.dcm", store)
    foreign = CloudEvent(id="f", source="/x", type="org.example.thing", data={})
    broken = CloudEvent(id="b", source="/x", type="dicom.instance.stored", data={"sha256": "x"})
    result = handle_batch([foreign, good, broken], CONTEXT, store, index)
    assert {(one.item_identifier, one.retryable) for one in result.failures} == {("f", False), ("b", False)}
    assert len(result.events) == 1


def test_the_runtime_accepts_the_handlers() -> None:
    """Each handler has the shape, and asks for the dependencies, that `bucky.serve` provides."""
    declared = {
        name: load_handler(f"{name}.handler").dependencies
        for name in ("parse_instance", "route_instance", "route_stable", "commit_deliveries", "record_dead_letter")
    }
    assert declared == {
        "parse_instance": ("objects", "index"),
        "route_instance": ("index",),
        "route_stable": ("index",),
        "commit_deliveries": ("index", "destination_secrets", "destination_places"),
        "record_dead_letter": ("index",),
    }


def _stored_file(path: Path, store: ObjectStore) -> CloudEvent:
    return _stored(path.read_bytes(), store)


def _is_instance(path: Path) -> bool:
    try:
        return bool(split(path.read_bytes())[0].sop_instance_uid)
    except InvalidInstance:
        return False


def _stored(content: bytes, store: ObjectStore, damage: bytes | None = None) -> CloudEvent:
    meta, start = split(content)
    data_set = content[start:]
    digest = hashlib.sha256(data_set).hexdigest()
    uids = _uids(content)
    key = object_key(*uids, meta.sop_instance_uid, digest)
    stored = content if damage is None else damage + b"\0"
    put_bytes(store, key, stored)
    payload = InstanceStored(
        study_instance_uid=uids[0],
        series_instance_uid=uids[1],
        sop_instance_uid=meta.sop_instance_uid,
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        sha256=digest,
        size=len(stored),
        bucket="bucky",
        key=key,
        calling_aet="CT1",
        called_aet="BUCKY",
        source_address="127.0.0.1",
        association_id="a1",
        received_at=utc_now(),
    )
    return CloudEvent.of(payload, source="/test", traceparent=TRACE)


def _uids(content: bytes) -> tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(content), specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
    return str(dataset.get("StudyInstanceUID") or "1.2"), str(dataset.get("SeriesInstanceUID") or "1.3")


def _data(event: CloudEvent) -> dict[str, Any]:
    data: dict[str, Any] = event.data
    return data


def _types(result: BatchResult) -> set[str]:
    return {event.type for event in result.events}
