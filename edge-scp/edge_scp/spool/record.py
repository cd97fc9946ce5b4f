"""A spool record: a whole DICOM file, then a footer that says what it is and proves it is whole.

    DICOM file (PS3.10)   preamble, file meta information, the data set bytes as they were received
    footer                JSON of `SpoolRecord`
    trailer               footer length (uint32), CRC-32 of the footer (uint32), the 8 bytes `BUCKYSP1`

One file is one fsync, and a file cut short anywhere has no valid trailer.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass, fields
from typing import Annotated, BinaryIO, ClassVar

import orjson
from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError

from bucky.errors import Permanent
from bucky.events import InstanceStored
from bucky.store.keys import object_key
from bucky.text.identifiers import Sha256, Uid

MAGIC = b"BUCKYSP1"
_TRAILER = struct.Struct("<II8s")
MAX_FOOTER = 64 * 1024
_CHUNK = 1024 * 1024


class CorruptRecord(Permanent):
    """A spool file is torn or its bytes are not the ones that were acknowledged."""


@dataclass(slots=True)
class SpoolRecord:
    """What the edge knows of one instance it acknowledged; `object_size` is of the DICOM file, in bytes.

    Only reading validates: when a record is made, all that is in it has been checked.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    study_instance_uid: Annotated[str, Uid]
    series_instance_uid: Annotated[str, Uid]
    sop_instance_uid: Annotated[str, Uid]
    sop_class_uid: Annotated[str, Uid]
    transfer_syntax_uid: Annotated[str, Uid]
    sha256: Annotated[str, Sha256]
    object_size: Annotated[int, Field(gt=0)]
    data_set_offset: Annotated[int, Field(gt=0)]
    calling_aet: str
    called_aet: str
    source_address: str
    association_id: str
    received_at: AwareDatetime
    traceparent: str
    listener: str = ""

    @property
    def key(self) -> str:
        """Return the object's key; raise `InvalidInstance` when a UID is not one."""
        return object_key(self.study_instance_uid, self.series_instance_uid, self.sop_instance_uid, self.sha256)

    def stored(self, bucket: str) -> InstanceStored:
        """Return what happened once the object is in the bucket."""
        known = {name: getattr(self, name) for name in _TOLD}
        return InstanceStored(**known, size=self.object_size, bucket=bucket, key=self.key)

    def footer(self) -> bytes:
        """Return the footer and trailer that go after the DICOM file."""
        text = orjson.dumps(self)
        return text + _TRAILER.pack(len(text), zlib.crc32(text), MAGIC)


_RECORDS = TypeAdapter(SpoolRecord)
_TOLD = [each.name for each in fields(SpoolRecord) if each.name in InstanceStored.model_fields]


def read_record(file: BinaryIO) -> SpoolRecord:
    """Read a record's footer; raise `CorruptRecord` when it is torn."""
    size = file.seek(0, 2)
    if size < _TRAILER.size:
        raise CorruptRecord("the file is shorter than its trailer")
    file.seek(size - _TRAILER.size)
    length, checksum, magic = _TRAILER.unpack(file.read(_TRAILER.size))
    if magic != MAGIC or length > min(MAX_FOOTER, size - _TRAILER.size):
        raise CorruptRecord("the file has no trailer: it was cut short or overwritten")
    file.seek(size - _TRAILER.size - length)
    text = file.read(length)
    if zlib.crc32(text) != checksum:
        raise CorruptRecord("the footer's checksum is wrong")
    try:
        record = _RECORDS.validate_json(text)
    except ValidationError as error:
        raise CorruptRecord("the footer is not a record this version can read") from error
    if record.object_size != size - _TRAILER.size - length or record.data_set_offset >= record.object_size:
        raise CorruptRecord("the DICOM file's length is not the recorded one")
    return record


def verify(file: BinaryIO) -> SpoolRecord:
    """Read a record's footer and check the data set bytes against their SHA-256."""
    record = read_record(file)
    file.seek(record.data_set_offset)
    digest = _sha256(file, record.object_size - record.data_set_offset)
    if digest != record.sha256:
        raise CorruptRecord("the data set bytes are not those that were acknowledged (SHA-256)")
    return record


def _sha256(file: BinaryIO, length: int) -> str:
    digest = hashlib.sha256()
    while length > 0 and (chunk := file.read(min(_CHUNK, length))):
        digest.update(chunk)
        length -= len(chunk)
    return digest.hexdigest()
