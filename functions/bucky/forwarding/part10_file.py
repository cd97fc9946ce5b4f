"""An instance as a DICOM file (PS3.10 §7), as one stream, and its place among others.

The file says of an instance what does not depend on who sent it: the same instance is always the same file.
"""

import hashlib
import io
from typing import Any, BinaryIO

from bucky.dicom.part10 import CHUNK_BYTES, FileMeta, Readable, file_header, split
from bucky.dicom.uids import checked_uid
from bucky.dimse.outgoing import Outgoing
from bucky.errors import InvalidInstance

HEAD_BYTES = 4096


class Part10File(io.RawIOBase):
    """A header and the data set that follows it; `size` is in bytes. Closing it closes the data set."""

    def __init__(self, header: bytes, data_set: BinaryIO) -> None:
        self._header = header
        self._data_set = data_set
        self._offset = data_set.tell()
        self.size = len(header) + data_set.seek(0, io.SEEK_END) - self._offset
        self._at = 0

    @classmethod
    def of(cls, item: Outgoing) -> "Part10File":
        """Open an instance; raise what its content raises."""
        header = file_header(FileMeta(item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax_uid))
        return cls(header, item.opened())

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: what is sent again is read again."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes from the first of the header."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read from where it stands; fewer bytes than asked for at the end of the header."""
        if self._at < len(self._header):
            piece = self._header[self._at : self._at + len(buffer)]
        else:
            self._data_set.seek(self._offset + self._at - len(self._header))
            piece = self._data_set.read(len(buffer))
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        """Close the data set."""
        self._data_set.close()
        super().close()


def place(template: str, item: Outgoing) -> str:
    """Fill in a path or key; raise `InvalidInstance` rather than let anything but a UID into it."""
    values = {
        "StudyInstanceUID": item.study_instance_uid,
        "SeriesInstanceUID": item.series_instance_uid,
        "SOPInstanceUID": item.sop_instance_uid,
        "SOPClassUID": item.sop_class_uid,
    }
    used = {name: checked_uid(value, name) for name, value in values.items() if f"{{{name}}}" in template}
    return template.format(**used, SHA256=item.sha256)


def is_corrected_by(item: Outgoing, there: Readable) -> bool:
    """Tell whether a DICOM file, read from its first byte, is one in whose place this instance was accepted."""
    if not item.corrects:
        return False
    head = b""
    while len(head) < HEAD_BYTES and (piece := there.read(HEAD_BYTES - len(head))):
        head += piece
    try:
        _meta, offset = split(head)
    except InvalidInstance:
        return False
    digest = hashlib.sha256(head[offset:])
    while chunk := there.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest() in item.corrects
