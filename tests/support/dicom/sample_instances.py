"""As many distinct instances as a test needs, made from one real CT image by giving each its own UIDs."""

import hashlib
import io
import secrets
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pydicom.data

from bucky.dicom.part10 import split
from bucky.dimse import Outgoing

SAMPLE = Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm"
SOP_INSTANCE_UID = b"1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
STUDY_INSTANCE_UID = b"1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"


@dataclass(frozen=True)
class Sample:
    """An instance to send, and what must be found of it everywhere afterwards."""

    outgoing: Outgoing
    study_instance_uid: str
    sop_instance_uid: str
    sha256: str


def samples(count: int) -> list[Sample]:
    """Return new instances of one new study; only the UIDs differ from the real image, at the same length."""
    content, sop_class, transfer_syntax = _sample()
    study = _uid_like(STUDY_INSTANCE_UID)
    content = content.replace(STUDY_INSTANCE_UID, study)
    made = []
    for _ in range(count):
        instance = _uid_like(SOP_INSTANCE_UID)
        data_set = content.replace(SOP_INSTANCE_UID, instance)
        made.append(
            Sample(
                Outgoing(sop_class, instance.decode(), transfer_syntax, partial(io.BytesIO, data_set)),
                study.decode(),
                instance.decode(),
                hashlib.sha256(data_set).hexdigest(),
            )
        )
    return made


@cache
def _sample() -> tuple[bytes, str, str]:
    content = SAMPLE.read_bytes()
    meta, offset = split(content)
    assert content.count(STUDY_INSTANCE_UID, offset) == 1
    assert content.count(SOP_INSTANCE_UID, offset) == 1
    return content[offset:], meta.sop_class_uid, meta.transfer_syntax_uid


def _uid_like(uid: bytes) -> bytes:
    digits = str(secrets.randbelow(10 ** (len(uid) - 5))).zfill(len(uid) - 5)
    return b"2.25." + b"1" + digits[1:].encode()
