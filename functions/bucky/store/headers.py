"""Reading an instance's header from the object store by ranged GETs; the pixels stay where they are."""

from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from bucky.dicom.header import Scattered, read_data_set
from bucky.dicom.json_model import attributes
from bucky.dicom.part10 import FileMeta, split
from bucky.errors import InvalidInstance
from bucky.store.objects import ObjectStore

FIRST_READ_BYTES = 64 * 1024
MAX_READ_BYTES = 4 * 1024 * 1024
MAX_READS = 200
_SHOWN_TAGS = 10
_FOREIGN = {
    0x0000: "which belong to a command set (PS3.7 §6.3)",
    0x0002: "which belong to the file meta information (PS3.10 §7.1)",
}


@dataclass(frozen=True, slots=True)
class Header:
    """A data set up to its pixels, bulky values left out.

    `problem` says where reading had to end early, or what is missing of the pixels.
    """

    meta: FileMeta
    dataset: Dataset
    problem: str | None = None


def read_header(objects: ObjectStore, key: str, size: int) -> Header:
    """Read the header of an object of `size` bytes.

    What stands before a place that cannot be read is kept, and `problem` names the place. Raises
    `InvalidInstance` when the object is no DICOM file, and what the object store raises.
    """
    stored = _StoredBytes(objects, key, size)
    meta, start = split(stored.at(0, 4096))
    dataset, problem = read_data_set(stored, start, meta.transfer_syntax_uid)
    return Header(meta, dataset, problem)


@dataclass(frozen=True, slots=True)
class ReadAttributes:
    """What the index keeps of a header: a DICOM JSON model object, and what could not be read of it.

    `meta` is None when the object is no DICOM file.
    """

    model: dict[str, Any]
    problem: str | None
    meta: FileMeta | None


def read_attributes(objects: ObjectStore, key: str, size: int) -> ReadAttributes:
    """Read as much of a header as can be read; raise only what the object store raises."""
    try:
        header = read_header(objects, key, size)
    except InvalidInstance as error:
        return ReadAttributes({}, str(error), None)
    decoded = attributes(header.dataset)
    problems = [header.problem] if header.problem else []
    groups = {tag.group for tag in header.dataset.keys()}  # noqa: SIM118 - a data set iterates over its elements
    problems += [
        f"there are elements of group {group:04X}, {why}" for group, why in _FOREIGN.items() if group in groups
    ]
    if decoded.undecodable:
        more = " and more" if len(decoded.undecodable) > _SHOWN_TAGS else ""
        problems.append("not decodable: " + ", ".join(decoded.undecodable[:_SHOWN_TAGS]) + more)
    return ReadAttributes(decoded.model, "; ".join(problems) or None, header.meta)


class _StoredBytes:
    """An object's bytes, fetched in reads that grow eightfold while they follow each other."""

    def __init__(self, objects: ObjectStore, key: str, size: int) -> None:
        self._objects = objects
        self._key = key
        self._size = size
        self._window = b""
        self._start = 0
        self._next_read = FIRST_READ_BYTES
        self._reads = 0

    def size(self) -> int:
        """Return the object's size in bytes."""
        return self._size

    def at(self, offset: int, length: int) -> bytes:
        """Return bytes of the object, fetching what is not in the window."""
        begin = offset - self._start
        if begin >= 0 and begin + length <= len(self._window):
            return self._window[begin : begin + length]
        length = min(length, self._size - offset)
        if length <= 0:
            return b""
        if not self._start <= offset <= self._start + len(self._window):
            self._window, self._start, self._next_read = b"", offset, FIRST_READ_BYTES
        missing = offset + length - self._start - len(self._window)
        if missing > 0:
            end = self._start + len(self._window)
            self._window = self._window[offset - self._start :] + self._fetch(end, missing)
            self._start = offset
        return self._window[offset - self._start : offset - self._start + length]

    def at_hand(self, offset: int) -> bytes:
        """Return what is in the window."""
        begin = offset - self._start
        return self._window[begin:] if begin >= 0 else b""

    def _fetch(self, offset: int, at_least: int) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS:
            raise Scattered(f"the header is scattered: {MAX_READS} reads did not reach its end")
        length = min(max(at_least, self._next_read), self._size - offset)
        self._next_read = min(self._next_read * 8, MAX_READ_BYTES)
        return self._objects.get(self._key, offset, length)
