"""What a function made: kept in files until all of it is known to be sound, then in the object store.

One result that is not sound spoils the answer: nothing of it is stored.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from bucky.dicom.identity import IdentityReader
from bucky.dicom.part10 import CHUNK_BYTES, FileMeta, file_header, split
from bucky.dicom.uids import checked_uid
from bucky.errors import InvalidInstance, NotFound, Permanent, Retriable
from bucky.events import InstanceStored, Processing, ReceivedInstance
from bucky.forwarding.part10_file import Part10File
from bucky.routing.provenance import written
from bucky.store.keys import object_key
from bucky.store.objects import ObjectStore

MOST_RESULTS = 20_000
STORED_AT_ONCE = 4
HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Result:
    """A sound result in a file; `offset` is where its data set begins."""

    path: Path
    offset: int
    meta: FileMeta
    study_instance_uid: str
    series_instance_uid: str
    sha256: str

    @property
    def key(self) -> str:
        """Return its object's key."""
        uid = self.meta.sop_instance_uid
        return object_key(self.study_instance_uid, self.series_instance_uid, uid, self.sha256)


@dataclass
class Results:
    """Gathers the results of one call in a folder, up to a limit in bytes; `as_given` counts inputs that came back."""

    folder: Path
    most_bytes: int
    given: Sequence[ReceivedInstance]
    found: dict[str, Result] = field(default_factory=dict)
    as_given: int = 0
    _bytes: int = 0
    _count: int = 0

    def __post_init__(self) -> None:
        self._digests = frozenset(one.sha256 for one in self.given)
        self._uids = frozenset(one.sop_instance_uid for one in self.given)

    def add(self, content: Iterable[bytes]) -> None:
        """Take one result; raise `Permanent` when it is not sound, or too much."""
        self._count += 1
        if self._count > MOST_RESULTS:
            raise Permanent(f"the function made more than {MOST_RESULTS} results of one call: nothing was kept")
        path = self.folder / f"{self._count}.dcm"
        try:
            self._write(path, content)
        except OSError as error:
            raise Retriable(f"the results do not fit on this machine's disk: {error.strerror}") from error
        try:
            self._keep(_read(path))
        except InvalidInstance as error:
            raise Permanent(f"result {self._count} of the function is no instance: {error}; nothing was kept") from None

    def _write(self, path: Path, content: Iterable[bytes]) -> None:
        with path.open("wb") as file:
            for piece in content:
                self._bytes += len(piece)
                if self._bytes > self.most_bytes:
                    raise Permanent(
                        f"the function answered more than {self.most_bytes} bytes (max_result_bytes of the rule): "
                        "nothing was kept"
                    )
                file.write(piece)

    def _keep(self, result: Result) -> None:
        uid = result.meta.sop_instance_uid
        if result.sha256 in self._digests:
            self.as_given += 1
            result.path.unlink()
            return
        if uid in self._uids:
            raise InvalidInstance("it has the SOP Instance UID of what the function was given, but other bytes")
        known = self.found.setdefault(uid, result)
        if known.sha256 != result.sha256:
            raise InvalidInstance("it has the SOP Instance UID of an earlier result, but other bytes")


def _read(path: Path) -> Result:
    with path.open("rb") as file:
        meta, offset = split(file.read(HEAD_BYTES))
        file.seek(offset)
        reader, digest, known = IdentityReader(meta.transfer_syntax_uid), sha256(), False
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            known = known or reader.feed(memoryview(piece))
    checked_uid(meta.transfer_syntax_uid, "TransferSyntaxUID")
    identity = reader.identity()
    if (identity.sop_class_uid, identity.sop_instance_uid) != (meta.sop_class_uid, meta.sop_instance_uid):
        raise InvalidInstance("its file meta information names another instance than its data set (PS3.10 §7.1)")
    return Result(path, offset, meta, identity.study_instance_uid, identity.series_instance_uid, digest.hexdigest())


@dataclass(frozen=True, slots=True)
class Keeper:
    """Stores results as instances that came out of these functions, the last of which made them."""

    objects: ObjectStore
    bucket: str
    processed: tuple[Processing, ...]
    now: Callable[[], datetime]

    def keep(self, results: Sequence[Result]) -> list[InstanceStored]:
        """Store what is not there yet; raise what the store raises."""
        with ThreadPoolExecutor(STORED_AT_ONCE) as pool:
            return list(pool.map(self._kept, results))

    def _kept(self, result: Result) -> InstanceStored:
        meta = result.meta
        header = file_header(
            FileMeta(
                meta.sop_class_uid,
                meta.sop_instance_uid,
                meta.transfer_syntax_uid,
                private_information=written(self.processed),
            )
        )
        data_set = result.path.open("rb")
        data_set.seek(result.offset)
        with Part10File(header, data_set) as file:
            size = file.size
            if not self._is_there(result.key):
                file.seek(0)
                self.objects.put(result.key, file, size)  # type: ignore[arg-type]  # it reads as one
        return InstanceStored(
            study_instance_uid=result.study_instance_uid,
            series_instance_uid=result.series_instance_uid,
            sop_instance_uid=meta.sop_instance_uid,
            sop_class_uid=meta.sop_class_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            sha256=result.sha256,
            size=size,
            bucket=self.bucket,
            key=result.key,
            calling_aet="",
            called_aet="",
            source_address="",
            association_id=self.processed[-1].delivery_id,
            received_at=self.now(),
            processed=self.processed,
        )

    def _is_there(self, key: str) -> bool:
        """Say whether these bytes are stored already: what is there says who brought them first."""
        try:
            self.objects.size(key)
        except NotFound:
            return False
        return True
