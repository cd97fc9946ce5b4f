"""What is in the bucket, a study at a time."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

from pydantic import ValidationError

from bucky.errors import NotFound
from bucky.events import ReceivedInstance
from bucky.index import IndexedInstance
from bucky.routing.corrections import DECISIONS, ConflictDecision
from bucky.routing.provenance import read_processed
from bucky.store.headers import read_attributes
from bucky.store.keys import KeyParts, is_decision, key_parts
from bucky.store.objects import ObjectStore, StoredObject


@dataclass(frozen=True, slots=True)
class InstanceObject:
    """An instance's object, and what its key says."""

    parts: KeyParts
    object: StoredObject


@dataclass(frozen=True, slots=True)
class StudyObjects:
    """All objects of a study."""

    study_instance_uid: str
    objects: tuple[InstanceObject, ...]

    @property
    def digests(self) -> frozenset[str]:
        """The digests of its instances."""
        return frozenset(one.parts.sha256 for one in self.objects)


@dataclass(slots=True)
class BucketStudies:
    """Iterates over the studies in a bucket; `foreign` are the keys that are nobody's instance."""

    objects: ObjectStore
    foreign: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[StudyObjects]:
        seen: set[str] = set()
        for uid, group in groupby(self._instances(), key=lambda one: one.parts.study_instance_uid):
            together = tuple(group)
            if uid in seen:  # a store that does not list by prefix: ask for this study alone
                together = tuple(BucketStudies(self.objects).of(uid))
            seen.add(uid)
            yield StudyObjects(uid, together)

    def of(self, study_uid: str) -> Iterator[InstanceObject]:
        """Iterate over the objects of one study."""
        return self._instances(f"studies/{study_uid}/")

    def _instances(self, prefix: str = "") -> Iterator[InstanceObject]:
        for one in self.objects.listing(prefix):
            parts = key_parts(one.key)
            if parts is None and not is_decision(one.key):
                self.foreign.append(one.key)
            elif parts is not None:
                yield InstanceObject(parts, one)


def read_decisions(objects: ObjectStore) -> list[ConflictDecision]:
    """Return the decisions about conflicts that the bucket holds; one that cannot be read is left out."""
    found = []
    for key in objects.keys(DECISIONS):
        if is_decision(key):
            with suppress(ValidationError, NotFound):
                found.append(ConflictDecision.model_validate_json(objects.get(key)))
    return found


def read_instance(objects: ObjectStore, one: InstanceObject, bucket: str) -> IndexedInstance | None:
    """Return what an object says of its instance, or None when it is no DICOM file, or not there any more.

    The bucket does not know the association, nor when it was: the time of storing stands in for that.
    """
    try:
        read = read_attributes(objects, one.object.key, one.object.size)
    except NotFound:
        return None
    meta = read.meta
    if meta is None:
        return None
    received = ReceivedInstance(
        **one.parts._asdict(),
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        size=one.object.size,
        bucket=bucket,
        key=one.object.key,
        calling_aet=meta.calling_aet,
        called_aet=meta.called_aet,
        source_address="",
        association_id="",
        received_at=one.object.modified,
        processed=read_processed(meta.private_information),
    )
    return IndexedInstance(received, read.model, read.problem, stored_at=one.object.modified)
