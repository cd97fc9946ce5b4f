"""What is sent for a delivery: the stored data set, its bytes checked against the digest they arrived with."""

import hashlib
import io
import os
import tempfile
from functools import partial
from pathlib import Path

from bucky.errors import Permanent
from bucky.events import DeliveryRequested, Instance
from bucky.objects import ObjectStore
from bucky.outgoing import Outgoing
from bucky.part10 import split

IN_MEMORY_BYTES = 8 * 1024 * 1024
HEAD_BYTES = 4096
CHUNK_BYTES = 1024 * 1024

Content = io.BytesIO | io.BufferedReader


def prepared(objects: ObjectStore, delivery: DeliveryRequested) -> Outgoing:
    """Return the instance as it goes out; its content is opened, and may fail, when its turn comes.

    This is the one place where what is sent may become another than what was received.
    """
    instance = delivery.instance
    return Outgoing(
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        content=partial(data_set_of, objects, instance),
        study_instance_uid=instance.study_instance_uid,
        series_instance_uid=instance.series_instance_uid,
        sha256=instance.sha256,
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
        digest = hashlib.sha256()
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
        stream.seek(offset)
    except BaseException:
        stream.close()
        raise
    if digest.hexdigest() != instance.sha256:
        stream.close()
        raise Permanent("the stored bytes are not those that were received (their SHA-256 differs): not sent")
    return stream


def _fetched(objects: ObjectStore, instance: Instance) -> Content:
    if instance.size <= IN_MEMORY_BYTES:
        return io.BytesIO(objects.get(instance.key))
    descriptor, name = tempfile.mkstemp(prefix="bucky-forward-")
    os.close(descriptor)
    path = Path(name)
    try:
        objects.download(instance.key, path)
        return path.open("rb")
    finally:
        path.unlink()
