"""A gateway whose functions a test scripts, and what else `process-instances` needs: a real store and a real index."""

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import pydicom
from pydicom.uid import generate_uid

from bucky.cloudevents import CloudEvent, utc_now
from bucky.deciding.grouping import Grouped, of_study
from bucky.deciding.requests import facts_of, requests_of
from bucky.dicom.part10 import FileMeta, file_header, split
from bucky.events import (
    DeliveryRequested,
    InstanceStored,
    Processing,
    ProcessingRequested,
    ReceivedInstance,
    payload_of,
)
from bucky.index import DeliveryState, Index, IndexedInstance
from bucky.routing.document import Routing
from bucky.serve.contract import BatchResult
from bucky.serve.handlers import load_handler, make_context
from bucky.settings import Settings
from bucky.store.barrier import Barrier, NoBarrier
from bucky.store.headers import read_attributes
from bucky.store.keys import object_key
from bucky.store.objects import S3ObjectStore, put_bytes
from bucky.trace import new_traceparent
from process_instances.calls import FunctionCalls
from process_instances.handler import handle_batch
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.network.pausable_server import PausableServer
from tests.support.network.plain_http import get

CONTEXT = make_context(load_handler("process_instances.handler"))
DICOM = "application/dicom"
BOUNDARY = "a-boundary"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
RULES = """
rules:
  - name: count
    trigger: study_stable
    process: {function: counter, timeout_seconds: 60, parameters: {colour: red}}
"""


@dataclass(frozen=True)
class Answer:
    """What a scripted function answers; without a status the connection is closed after the body."""

    status: int | None = 200
    content_type: str = MULTIPART
    body: Iterable[bytes] = ()
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[dict[str, Any]], Answer]


class Gateway(PausableServer):
    """A gateway with scripted functions; `calls` are the events that they got."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[str, Script] = {}
        self.calls: list[dict[str, Any]] = []
        self.hanging = threading.Event()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Let the function answer, chunk by chunk."""
        event = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        script = self.functions.get(request.path.removeprefix("/function/"))
        if script is None:
            answer = Answer(404, "text/plain")
        else:
            self.calls.append(event)
            answer = script(event)
        request.send_response(answer.status or 200)
        request.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            request.send_header(name, value)
        if answer.status == 204:
            request.end_headers()
            return
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for piece in answer.body:
            request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if answer.status is None:
            request.close_connection = True
            return
        request.wfile.write(b"0\r\n\r\n")


def multipart(*files: bytes, content_type: str = DICOM) -> tuple[bytes, ...]:
    """Return a multipart body of these files, in pieces that cut it anywhere."""
    parts = [f"--{BOUNDARY}\r\nContent-Type: {content_type}\r\n\r\n".encode() + file + b"\r\n" for file in files]
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return tuple(body[at : at + 1000] for at in range(0, len(body), 1000))


def files_of(event: dict[str, Any]) -> list[bytes]:
    """Fetch what a function was given, as any function can: by its links, with no credentials."""
    urls = [one["url"] for one in event["data"]["instances"]]
    return [get(url).raise_for_status().content for url in urls]


def derived(file: bytes, uid: str | None = None, **changes: str) -> bytes:
    """Return what a well-behaved function makes of a file: another instance, the same for the same file."""
    dataset = pydicom.dcmread(io.BytesIO(file))
    dataset.SOPInstanceUID = uid or generate_uid(prefix="2.25.", entropy_srcs=[dataset.SOPInstanceUID])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesInstanceUID = generate_uid(prefix="2.25.", entropy_srcs=[dataset.SeriesInstanceUID])
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


def deriving(event: dict[str, Any]) -> Answer:
    """Be a function that makes one new instance of each that it is given."""
    return Answer(body=multipart(*map(derived, files_of(event))))


def data_set_sha256(file: bytes) -> str:
    """Return the digest of a file's data set."""
    return hashlib.sha256(file[split(file)[1] :]).hexdigest()


class ProcessWorld:
    """Store, index, gateway and the handler between them."""

    def __init__(self, settings: Settings, index: Index, gateway: Gateway) -> None:
        self.settings, self.index, self.gateway = settings, index, gateway
        self.objects = S3ObjectStore(settings)
        self.calls = FunctionCalls(gateway.url)
        self.barrier: Barrier = NoBarrier()
        self.route(RULES)

    def route(self, rules: str) -> None:
        """Make these the rules."""
        self.index.save_routing(Routing.from_yaml(rules), self.index.routing().version, "test")

    def receive(self, count: int = 2, processed: tuple[Processing, ...] = ()) -> list[Sample]:
        """Store and index a new study."""
        made = samples(count)
        for sample in made:
            self.keep(sample, processed)
        return made

    def keep(self, sample: Sample, processed: tuple[Processing, ...] = ()) -> None:
        """Store and index an instance."""
        data_set = sample.outgoing.content().read()
        dataset = pydicom.dcmread(io.BytesIO(data_set), force=True, stop_before_pixels=True)
        outgoing, series = sample.outgoing, str(dataset.SeriesInstanceUID)
        meta = FileMeta(outgoing.sop_class_uid, outgoing.sop_instance_uid, outgoing.transfer_syntax_uid, "CT1", "BUCKY")
        file = file_header(meta) + data_set
        key = object_key(sample.study_instance_uid, series, sample.sop_instance_uid, sample.sha256)
        put_bytes(self.objects, key, file)
        instance = ReceivedInstance(
            study_instance_uid=sample.study_instance_uid,
            series_instance_uid=series,
            sop_instance_uid=sample.sop_instance_uid,
            sop_class_uid=outgoing.sop_class_uid,
            transfer_syntax_uid=outgoing.transfer_syntax_uid,
            sha256=sample.sha256,
            size=len(file),
            bucket=self.settings.store_bucket,
            key=key,
            calling_aet="CT1",
            called_aet="BUCKY",
            source_address="127.0.0.1",
            association_id="a",
            received_at=utc_now(),
            processed=processed,
        )
        self._index(instance)

    def index_results(self, result: BatchResult) -> list[InstanceStored]:
        """Index what the handler announced, as parse-instance does; return it."""
        payloads = [payload_of(event) for event in result.events]
        stored = [payload for payload in payloads if isinstance(payload, InstanceStored)]
        for one in stored:
            self._index(one)
        return stored

    def _index(self, instance: ReceivedInstance) -> None:
        read = read_attributes(self.objects, instance.key, instance.size)
        self.index.upsert_instances([IndexedInstance(instance, read.model, read.problem)])

    def decide(self, study: str) -> list[CloudEvent]:
        """Ask the rules that wait for a series or study; record and return what they ask for."""
        gathered = of_study(self.index, self.index.routing(), study)
        return self._requested(gathered.requests, gathered)

    def decide_alone(self, sha256: str) -> list[CloudEvent]:
        """Ask the rules that wait for nothing about an instance; record and return what they ask for."""
        row = self.index.instance(sha256)
        return self._requested(requests_of(row.received(), facts_of(row.received(), row.header), self.index.routing()))

    def _requested(self, requests: Sequence[DeliveryRequested], gathered: Grouped | None = None) -> list[CloudEvent]:
        self.index.request_deliveries(requests, members=gathered.members if gathered else {})
        return [CloudEvent.of(one, source="/test", traceparent=new_traceparent()) for one in requests]

    def process(self, events: Sequence[CloudEvent], index: Any = None) -> BatchResult:
        """Run the function on a batch."""
        return handle_batch(events, CONTEXT, self.settings, self.objects, index or self.index, self.barrier, self.calls)

    def state(self, event: CloudEvent) -> DeliveryState:
        """Return where a processing stands."""
        return self.index.delivery(event.id).state

    def held(self) -> set[str]:
        """Return the digest of every data set in the bucket, computed now from the bytes."""
        return {data_set_sha256(self.objects.get(one.key)) for one in self.objects.listing()}


def requested(event: CloudEvent) -> ProcessingRequested:
    """Return an event's request."""
    payload = payload_of(event)
    assert isinstance(payload, ProcessingRequested)
    return payload


@contextmanager
def process_world(store: Settings, index: Index) -> Iterator[ProcessWorld]:
    """Run a gateway whose function `counter` makes one instance of each, over a store and an index, for a block."""
    gateway = Gateway()
    gateway.open()
    gateway.functions["counter"] = deriving
    world = ProcessWorld(store, index, gateway)
    yield world
    gateway.hanging.set()
    world.calls.close()
    gateway.close()
