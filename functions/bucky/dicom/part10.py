"""DICOM files (PS3.10 §7): the preamble and file meta information around a data set kept as it came.

The data set bytes are never decoded or encoded here: they are what the sender sent.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from bucky.errors import InvalidInstance

IMPLEMENTATION_CLASS_UID = "1.2.826.0.1.3680043.10.1733.1"
IMPLEMENTATION_VERSION_NAME = "BUCKY_0_1"
CHUNK_BYTES = 1024 * 1024
PREAMBLE = b"\0" * 128 + b"DICM"


@dataclass(frozen=True, slots=True)
class FileMeta:
    """The file meta information Bucky writes and reads (PS3.10 Table 7.1-1).

    `private_information` is ours, in ASCII: whose is somebody else's is read as nothing.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_aet: str = ""
    called_aet: str = ""
    private_information: str = ""


def file_header(meta: FileMeta) -> bytes:
    """Return the preamble, prefix and file meta information that go before the data set bytes."""
    before, after = around_the_instance(meta.sop_class_uid, meta.transfer_syntax_uid, meta.calling_aet, meta.called_aet)
    elements = before + _short(0x0003, b"UI", meta.sop_instance_uid, b"\0") + after
    if meta.private_information:
        information = meta.private_information.encode("ascii")
        elements += _short(0x0100, b"UI", IMPLEMENTATION_CLASS_UID, b"\0")
        elements += _long(0x0102, b"OB", information + b" " * (len(information) % 2))
    return PREAMBLE + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements


@lru_cache(maxsize=1024)
def around_the_instance(
    sop_class_uid: str, transfer_syntax_uid: str, calling_aet: str, called_aet: str
) -> tuple[bytes, bytes]:
    """Return the elements before and after the one that differs between the instances of an association."""
    before = _long(0x0001, b"OB", b"\x00\x01") + _short(0x0002, b"UI", sop_class_uid, b"\0")
    after = (
        _short(0x0010, b"UI", transfer_syntax_uid, b"\0"),
        _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\0"),
        _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" "),
        # At full length, so that the same instance from another sender makes an object of the same size.
        _short(0x0016, b"AE", calling_aet.ljust(16), b" ") if calling_aet else b"",
        _short(0x0018, b"AE", called_aet.ljust(16), b" ") if called_aet else b"",
    )
    return before, b"".join(after)


def split(content: bytes | memoryview) -> tuple[FileMeta, int]:
    """Return the file meta information and the offset of the data set, from a file's first bytes.

    Raises `InvalidInstance` when they are not a DICOM file with a file meta group length.
    """
    head = bytes(content[:4096]) if len(content) > 4096 else bytes(content)
    if head[128:132] != b"DICM":
        raise InvalidInstance("not a DICOM file: the DICM prefix is missing (PS3.10 §7.1)")
    if len(head) < 144 or head[132:138] != b"\x02\x00\x00\x00UL":
        raise InvalidInstance("the file meta group length (0002,0000) is missing (PS3.10 §7.1)")
    end = 144 + int(struct.unpack_from("<I", head, 140)[0])
    if end > len(head):
        raise InvalidInstance("the file meta information is longer than 4 KiB or cut short")
    values: dict[int, str] = {}
    at = 144
    while at < end:
        group, element, vr, length = struct.unpack_from("<HH2sH", head, at)
        at += 8
        if vr in {b"OB", b"UN", b"OW", b"SQ", b"UT"}:
            (length,) = struct.unpack_from("<I", head, at)
            at += 4
        if group != 2 or at + length > end:
            raise InvalidInstance("the file meta information is malformed (PS3.10 §7.1)")
        values[element] = head[at : at + length].decode("ascii", "replace").rstrip("\0 ")
        at += length
    ours = values.get(0x0100) == IMPLEMENTATION_CLASS_UID
    information = values.get(0x0102, "") if ours else ""
    try:
        return (
            FileMeta(values[0x02], values[0x03], values[0x10], values.get(0x16, ""), values.get(0x18, ""), information),
            end,
        )
    except KeyError as error:
        raise InvalidInstance("the file meta information lacks a required UID (PS3.10 §7.1)") from error


def _short(element: int, vr: bytes, value: str, pad: bytes) -> bytes:
    encoded = value.encode("ascii")
    encoded += pad * (len(encoded) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(encoded)) + encoded


def _long(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sHI", 2, element, vr, 0, len(value)) + value


class Readable(Protocol):
    """What can be read a piece at a time."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most `size` bytes; none at the end."""


def sha256_of(stream: Readable) -> bytes:
    """Return the SHA-256 of a stream from where it stands to its end."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()
