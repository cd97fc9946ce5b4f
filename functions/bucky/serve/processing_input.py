"""What a function of Bucky's is given to process: instances, each fetched when it is asked for.

    def process(given: Given, ctx: Context) -> Iterator[Dataset]:
        for instance in given.instances:
            dataset = instance.read()
            ...
            yield dataset

`bucky.serve` makes it of the event that `process-instances` sends, and answers with what is yielded.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import IO, Any, BinaryIO, cast

import httpx
import pydicom
from pydantic import BaseModel, ConfigDict, ValidationError

from bucky.cloudevents import CloudEvent
from bucky.dicom.deflated import inflated
from bucky.dicom.identity import DEFLATED
from bucky.dicom.part10 import split
from bucky.dicom.source import MalformedDataSet, StreamSource
from bucky.dicom.whole import whole
from bucky.errors import Permanent, StoreUnavailable
from bucky.events import Instance
from bucky.runtime.tls import trust
from bucky.text.identifiers import Unit

EVENT_TYPE = "dicom.processing.begun"
IN_MEMORY_BYTES = 8 * 1024 * 1024
HEAD_BYTES = 4096
MAX_INFLATED_BYTES = 4 * 1024**3
SECONDS = 60.0


class ProcessingInstance(Instance):
    """One instance; `url` gives its DICOM file to whoever asks, for as long as the function may take."""

    TYPE = EVENT_TYPE
    url: str

    @contextmanager
    def file(self) -> Iterator[IO[bytes]]:
        """Fetch the DICOM file, check that it is whole, and open it.

        Raises `StoreUnavailable` when it cannot be had now, `Permanent` when it is not what was received.
        """
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as file:
            try:
                with httpx.stream(
                    "GET", self.url, timeout=SECONDS, trust_env=False, verify=trust(self.url)
                ) as response:
                    if response.status_code != httpx.codes.OK:
                        raise StoreUnavailable(f"the object store answered {response.status_code} for an instance")
                    for piece in response.iter_bytes():
                        file.write(piece)
            except httpx.RequestError as error:
                raise StoreUnavailable(f"an instance cannot be fetched: {type(error).__name__}") from error
            file.seek(0)
            _meta, offset = split(file.read(HEAD_BYTES))
            file.seek(offset)
            if hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
                raise Permanent("the stored bytes are not those that were received (their SHA-256 differs)")
            file.seek(0)
            yield file

    def read(self) -> pydicom.FileDataset:
        """Fetch it and return it with its pixels; raise `Permanent` when it is damaged: pydicom would not say so."""
        with self.file() as file:
            _check_whole(file)
            return pydicom.dcmread(file)


def _check_whole(file: IO[bytes]) -> None:
    meta, offset = split(file.read(HEAD_BYTES))
    file.seek(offset)
    try:
        if meta.transfer_syntax_uid in DEFLATED:
            with inflated(cast(BinaryIO, file), MAX_INFLATED_BYTES) as plain:
                whole(StreamSource(plain), 0, meta.transfer_syntax_uid)
        else:
            whole(StreamSource(cast(BinaryIO, file)), offset, meta.transfer_syntax_uid)
    except MalformedDataSet as damage:
        raise Permanent(f"it is damaged: {damage}; nothing is made of it: have the instance made again") from damage
    file.seek(0)


class ProcessingInput(BaseModel):
    """What one call is about; `id` and `decided_at` are the same when it is repeated after a failure."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    decided_at: datetime
    function: str
    rule: str
    rule_version: int
    parameters: dict[str, Any]
    unit: Unit
    study_instance_uid: str
    instances: tuple[ProcessingInstance, ...]

    @classmethod
    def of(cls, event: CloudEvent) -> "ProcessingInput":
        """Read the event; raise `Permanent` when it is another."""
        if event.type != EVENT_TYPE:
            raise Permanent(f"this function processes {EVENT_TYPE} events, not {event.type}")
        try:
            return cls.model_validate({**(event.data or {}), "id": event.id, "decided_at": event.time})
        except ValidationError as error:
            raise Permanent(f"the data of {EVENT_TYPE} event {event.id} does not match its schema") from error


Made = pydicom.Dataset | bytes
"""A result: a data set with its file meta information, or a DICOM file (PS3.10)."""
