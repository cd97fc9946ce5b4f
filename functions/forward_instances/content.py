"""What is sent: the data set of a stored object as a stream, its bytes checked, changed where its rule says so."""

import io
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from bucky.dicom.part10 import sha256_of, split
from bucky.dimse.outgoing import Opener, Outgoing
from bucky.errors import Permanent
from bucky.events import DeliveryRequested, Instance
from bucky.index import Index
from bucky.morph.original import Modification
from bucky.morph.splice import WantedChanges, morphed
from bucky.routing.crosswalk import Crosswalks
from bucky.routing.document import Routing
from bucky.store.local_cache import CachedObjectStore
from bucky.store.objects import ObjectStore
from bucky.text.identifiers import delivery_id

IN_MEMORY_BYTES = 8 * 1024 * 1024
HEAD_BYTES = 4096

Content = io.BytesIO | io.BufferedReader


class Contents:
    """Prepares what is sent for each delivery of a batch; `sent` has the digest of what a rule has changed.

    `tables` has the versions of the crosswalks, by name, that each was changed by.

    This is the one place where what is sent may become another than what was received.
    """

    def __init__(self, objects: ObjectStore, index: Index, crosswalks: Crosswalks) -> None:
        self.sent: dict[str, str] = {}
        self.tables: dict[str, dict[str, str]] = {}
        self._objects = objects
        self._index = index
        self._crosswalks = crosswalks
        self._documents: dict[int, Routing] = {}

    def prepared(
        self, delivery: DeliveryRequested, through: Callable[[Opener], Opener], corrects: frozenset[str] = frozenset()
    ) -> Outgoing:
        """Return the instance as it goes out; its content is opened, and may fail, when its turn comes."""
        instance = delivery.instance
        return Outgoing(
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            content=partial(self.open, delivery),
            through=through,
            study_instance_uid=instance.study_instance_uid,
            series_instance_uid=instance.series_instance_uid,
            sha256=instance.sha256,
            corrects=corrects,
        )

    def open(self, delivery: DeliveryRequested) -> BinaryIO:
        """Return a stream of the data set to send; the caller closes it.

        Raises what `data_set_of` does, `Permanent` when it cannot be changed as the rule wants, and `Retriable`
        while the index or a crosswalk is away.
        """
        _check_whole(delivery)
        wanted = self._wanted(delivery) if delivery.morph_sha256 is not None else None
        content = data_set_of(self._objects, delivery.instance)
        if wanted is None:
            return content
        changed: BinaryIO = content
        try:
            changed, changes = morphed(content, delivery.instance.transfer_syntax_uid, wanted)
            if changes:
                self.sent[delivery.delivery_id] = _digest(changed)
        except BaseException:
            changed.close()
            raise
        return changed

    def digest(self, delivery: DeliveryRequested) -> str:
        """Return the digest of what is sent for a delivery, changed or not, once it was opened."""
        return self.sent.get(delivery.delivery_id, delivery.instance.sha256)

    def _wanted(self, delivery: DeliveryRequested) -> WantedChanges:
        """Return what the rule that decided wants changed; raise `Permanent` when that is not known any more."""
        version = delivery.rule_version
        if version not in self._documents:
            self._documents[version] = self._index.routing_version(version).document
        routing = self._documents[version]
        rule = routing.rule(delivery.rule)
        if rule is None or routing.morph_sha256(rule.name) != delivery.morph_sha256:
            raise Permanent(
                f"rule {delivery.rule!r} of version {version} is not known any more, so neither is what it changes: "
                "the instance was not sent; replay it"
            )
        modification = None
        if rule.original_attributes == "record":
            decided_at = self._index.delivery(delivery.delivery_id).requested_at
            modification = Modification(f"BUCKY {rule.name} v{version}", delivery.instance.calling_aet, decided_at)
        versions = self.tables[delivery.delivery_id] = {}
        return WantedChanges(rule.morph, self._crosswalks.among(routing.crosswalks, versions), modification)


def _check_whole(delivery: DeliveryRequested) -> None:
    """Refuse a request that lost what is to be changed: its id was made with that."""
    instance, version = delivery.instance, delivery.rule_version
    if delivery.delivery_id != delivery_id(instance.sha256, delivery.destination, version, delivery.morph_sha256):
        raise Permanent(
            "the request and its id do not agree on what is to be sent, where, and with which changes: the instance "
            "was not sent; replay it"
        )


def data_set_of(objects: ObjectStore, instance: Instance) -> Content:
    """Return a stream at the data set's first byte; the caller closes it.

    A small object stays in memory, a large one goes to a file that has no name any more when this returns.
    Raises `Permanent` when the object is gone or its bytes changed, `Retriable` when the store is away.
    """
    stream = _fetched(objects, instance)
    try:
        _meta, offset = split(stream.read(HEAD_BYTES))
        stream.seek(offset)
        digest = _digest(stream)
    except BaseException:
        stream.close()
        raise
    if digest != instance.sha256:
        stream.close()
        if isinstance(objects, CachedObjectStore):
            return data_set_of(objects.stored, instance)
        raise Permanent("the stored bytes are not those that were received (their SHA-256 differs): not sent")
    return stream


def _digest(content: BinaryIO) -> str:
    """Return the digest of a stream, which is left where it was."""
    start = content.tell()
    digest = sha256_of(content)
    content.seek(start)
    return digest.hex()


def _fetched(objects: ObjectStore, instance: Instance) -> Content:
    if instance.size <= IN_MEMORY_BYTES:
        return io.BytesIO(objects.get(instance.key, 0, instance.size))
    descriptor, name = tempfile.mkstemp(prefix="bucky-forward-")
    os.close(descriptor)
    path = Path(name)
    try:
        objects.download(instance.key, path)
        return path.open("rb")
    finally:
        path.unlink()
