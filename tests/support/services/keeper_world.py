"""What the tests of the keeper stand on: real DICOM files in a store, indexed by the real function."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pydicom.data
from sqlalchemy import Connection, Table, create_engine, delete, select

from bucky.cloudevents import CloudEvent, utc_now
from bucky.dicom.json_model import quietly
from bucky.dicom.part10 import FileMeta, file_header, split
from bucky.events import InstanceStored
from bucky.index import Index
from bucky.index.column_types import metadata
from bucky.index.schema import instances, series, studies
from bucky.log import get_logger
from bucky.serve.handlers import Context
from bucky.store.keys import object_key
from bucky.store.objects import ObjectStore, put_bytes
from bucky.trace import new_traceparent
from parse_instance.handler import handle_batch
from tests.support.dicom.sample_instances import SAMPLE, SOP_INSTANCE_UID, STUDY_INSTANCE_UID

FILES = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm")
CONTEXT = Context("parse-instance", get_logger("test"))
# What nothing but the index knows, as the documentation says.
ONLY_THE_INDEX_KNOWS = {
    "source_address",
    "association_id",
    "received_at",
    "indexed_at",
    "trace_id",
    "stored_at",
    "first_received_at",
    "last_instance_at",
}


def store(
    objects: ObjectStore, data_set: bytes, meta: FileMeta, study: str, series_uid: str, bucket: str = "bucky"
) -> InstanceStored:
    """Put a DICOM file as the edge does, and return what the edge would publish."""
    digest = hashlib.sha256(data_set).hexdigest()
    key = object_key(study, series_uid, meta.sop_instance_uid, digest)
    content = file_header(meta) + data_set
    put_bytes(objects, key, content)
    return InstanceStored(
        study_instance_uid=study,
        series_instance_uid=series_uid,
        sop_instance_uid=meta.sop_instance_uid,
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        sha256=digest,
        size=len(content),
        bucket=bucket,
        key=key,
        calling_aet=meta.calling_aet,
        called_aet=meta.called_aet,
        source_address="10.0.0.1",
        association_id="association-1",
        received_at=utc_now(),
    )


def store_samples(
    objects: ObjectStore, study: str, count: int, first: int = 0, bucket: str = "bucky"
) -> list[InstanceStored]:
    """Put so many CT images of one study, in two series; only their UIDs differ."""
    content = SAMPLE.read_bytes()
    meta, offset = split(content)
    # At the same length, so that the file stays valid.
    data_set = content[offset:].replace(STUDY_INSTANCE_UID, study.encode().ljust(len(STUDY_INSTANCE_UID), b"\0"))
    made = []
    for number in range(first, first + count):
        uid = f"2.25.7{int(hashlib.sha256(f'{study} {number}'.encode()).hexdigest()[:30], 16)}"[: len(SOP_INSTANCE_UID)]
        one = data_set.replace(SOP_INSTANCE_UID, uid.encode().ljust(len(SOP_INSTANCE_UID), b"\0"))
        made.append(store(objects, one, _sent(meta, uid), study, f"{study}.{number % 2}", bucket))
    return made


def store_files(objects: ObjectStore) -> list[InstanceStored]:
    """Put real files of several kinds and transfer syntaxes; one of them twice, with other bytes the second time."""
    made = []
    for name in FILES:
        path = pydicom.data.get_testdata_file(name, download=False)
        assert isinstance(path, str)
        with quietly():
            header = pydicom.dcmread(path, stop_before_pixels=True)
        with open(path, "rb") as file:  # noqa: PTH123 - pydicom gives a string
            content = file.read()
        meta, offset = split(content)
        study, series_uid = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
        sent = _sent(meta, meta.sop_instance_uid)
        made.append(store(objects, content[offset:], sent, study, series_uid))
        if name == FILES[0]:
            other = content[offset:-2] + b"\1\1"
            made.append(store(objects, other, sent, study, series_uid))
    return made


def _sent(meta: FileMeta, uid: str) -> FileMeta:
    return FileMeta(meta.sop_class_uid, uid, meta.transfer_syntax_uid, "CT1", "BUCKY")


def stored_event(stored: InstanceStored) -> CloudEvent:
    """Return the event the edge publishes."""
    return CloudEvent.of(stored, source="/test", traceparent=new_traceparent())


def indexed(
    objects: ObjectStore, index: Index, stored: Sequence[InstanceStored], events: Sequence[CloudEvent] | None = None
) -> None:
    """Have the function index them."""
    result = handle_batch(events or [stored_event(one) for one in stored], CONTEXT, objects, index)
    assert not result.failures


class Tables:
    """The index's tables, read and changed behind its back."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def rows(self, *tables: Table, without: set[str] | None = None) -> dict[str, list[dict[str, Any]]]:
        """Return every row of the tables, those of instances, series and studies unless others are named."""
        with self._engine.begin() as connection:
            return {
                table.name: _rows(connection, table, without or set())
                for table in tables or (instances, series, studies)
            }

    def execute(self, *statements: Any) -> None:
        """Execute statements in one transaction."""
        with self._engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)

    def empty(self) -> None:
        """Lose everything."""
        self.execute(*(delete(table) for table in reversed(metadata.sorted_tables)))


def _rows(connection: Connection, table: Table, without: set[str]) -> list[dict[str, Any]]:
    kept = [column for column in table.c if column.name not in without]
    return [dict(row) for row in connection.execute(select(*kept).order_by(*table.primary_key)).mappings()]


def long_ago(seconds: float = 3600) -> datetime:
    """Return a time before now."""
    return utc_now() - timedelta(seconds=seconds)
