"""The engine of `bucky send`: files to a DICOM node over several associations, one result per file.

Nothing is tried twice and nothing is changed: each data set goes out in its own transfer syntax, byte for
byte. It prints nothing; the callback sees each result as it is known.
"""

import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from bucky.dicom.foreign_file import ForeignFile, NotAnInstance, Unsendable, read_foreign_file
from bucky.dimse import Outcome, Outgoing, Peer, StoreResult, store_all
from bucky.errors import Retriable

CHUNK = 1000
"""Files looked at before they are sent: contexts must be known when an association is requested."""


class Sent(StrEnum):
    """What became of one file."""

    SENT = "sent"
    """The destination answered success, or a warning."""
    REFUSED = "refused"
    """The destination will not take it."""
    FAILED = "failed"
    """It could not be sent, or got no final answer; the reason says which."""
    SKIPPED = "skipped"
    """It is not a DICOM instance."""


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file; `sha256` and `size` (bytes) are of its data set."""

    path: Path
    outcome: Sent
    reason: str = ""
    comment: str = ""
    status: int | None = None
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    transfer_syntax_uid: str = ""
    sha256: str = ""
    size: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SendReport:
    """Every result, in the order of the files, and the time it all took."""

    results: tuple[FileResult, ...]
    seconds: float

    @property
    def counts(self) -> Counter[Sent]:
        """How many files ended how."""
        return Counter(result.outcome for result in self.results)

    @property
    def bytes_sent(self) -> int:
        """The data set bytes the destination has taken."""
        return sum(result.size for result in self.results if result.outcome is Sent.SENT)

    @property
    def complete(self) -> bool:
        """Whether there was a DICOM instance among the files, and every one was stored."""
        stored = self.counts[Sent.SENT] > 0
        return stored and all(result.outcome in {Sent.SENT, Sent.SKIPPED} for result in self.results)


OnResult = Callable[[FileResult], None]


def send(paths: Iterable[Path], to: Peer, *, associations: int = 4, on_result: OnResult | None = None) -> SendReport:
    """Send files, and folders with all they contain, to a DICOM node."""
    started = time.monotonic()
    files = iter(files_in(paths))
    results: list[FileResult] = []
    while chunk := list(islice(files, CHUNK)):
        results += _send_chunk(chunk, to, associations, on_result or (lambda _result: None))
    return SendReport(tuple(results), time.monotonic() - started)


def files_in(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield each file, and the files below each folder in the order of their names."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, subfolders, names in os.walk(path):
            subfolders.sort()
            yield from (Path(folder) / name for name in sorted(names))


def _send_chunk(paths: Sequence[Path], to: Peer, associations: int, on_result: OnResult) -> list[FileResult]:
    results: dict[Path, FileResult] = {}

    def tell(result: FileResult) -> None:
        results[result.path] = result
        on_result(result)

    files: list[ForeignFile] = []
    for path in dict.fromkeys(paths):
        found = _looked_at(path)
        if isinstance(found, ForeignFile):
            files.append(found)
        else:
            tell(found)
    digests: dict[Path, Any] = {}
    store_all(
        to,
        [_outgoing(file, digests) for file in files],
        associations=associations,
        on_result=lambda index, result: tell(_file_result(files[index], result, digests)),
    )
    return [results[path] for path in dict.fromkeys(paths)]


def _looked_at(path: Path) -> ForeignFile | FileResult:
    if not path.is_file():  # opening a pipe would wait for ever
        reason = "it is not a regular file" if path.exists() else "there is no such file"
        return FileResult(path, Sent.FAILED, reason)
    try:
        return read_foreign_file(path)
    except NotAnInstance as error:
        return FileResult(path, Sent.SKIPPED, str(error))
    except Unsendable as error:
        return FileResult(path, Sent.FAILED, str(error))
    except OSError as error:
        return FileResult(path, Sent.FAILED, f"the file cannot be read: {error.strerror}")


def _outgoing(file: ForeignFile, digests: dict[Path, Any]) -> Outgoing:
    return Outgoing(
        file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid, partial(_opened, file, digests)
    )


def _opened(file: ForeignFile, digests: dict[Path, Any]) -> BinaryIO:
    try:
        stream = file.path.open("rb", buffering=0)
        stream.seek(file.offset)
    except OSError as error:
        raise Retriable(f"the file cannot be read: {error.strerror}") from error
    digests[file.path] = digest = hashlib.sha256()
    return io.BufferedReader(_Digesting(stream, digest), 1024 * 1024)


class _Digesting(io.RawIOBase):
    """A file whose digest grows as it is read, so that it is read once."""

    def __init__(self, file: io.FileIO, digest: Any) -> None:
        self._file = file
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._digest.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


_OUTCOMES = {
    Outcome.STORED: Sent.SENT,
    Outcome.WARNED: Sent.SENT,
    Outcome.REFUSED: Sent.REFUSED,
    Outcome.UNAVAILABLE: Sent.FAILED,
}


def _file_result(file: ForeignFile, result: StoreResult, digests: dict[Path, Any]) -> FileResult:
    digest = digests.get(file.path)
    return FileResult(
        path=file.path,
        outcome=_OUTCOMES[result.outcome],
        reason=result.reason,
        comment=result.comment,
        status=result.status,
        sop_class_uid=file.sop_class_uid,
        sop_instance_uid=file.sop_instance_uid,
        transfer_syntax_uid=file.transfer_syntax_uid,
        # Only an answer means that all of it was read.
        sha256=digest.hexdigest() if digest is not None and result.status is not None else "",
        size=file.size,
        seconds=result.seconds,
    )
