"""Destinations that have an instance already: delivered when what they have is ours, otherwise why nobody knows."""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import RLELossless

from bucky.dicom.part10 import split
from bucky.dimse import status
from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult
from bucky.forwarding import Secrets
from bucky.forwarding.folder import FolderSender
from bucky.forwarding.s3 import S3Sender
from bucky.forwarding.stow import StowSender
from bucky.index import DeliveryState, Index
from bucky.routing.destinations import FolderDestination, StowDestination
from bucky.settings import Settings
from bucky.store.objects import MemoryObjectStore
from local_stack.destination import Destination, ReceivedRequest, ScriptedAnswer
from tests.support.destinations.destination_worlds import S3World
from tests.support.destinations.stow_server import Request, StowServer, Whole
from tests.support.dicom.sample_instances import SAMPLE
from tests.support.functions.forwarding import (
    CT,
    EXPLICIT,
    SENDERS,
    forward,
    request,
    route_to,
    save_destination,
    state,
)

ALREADY, BUSY, DUPLICATE, FAILURE = 0xB00E, 0xB00F, 0x0111, 0x0110
CONTENT = SAMPLE.read_bytes()
META, OFFSET = split(CONTENT)
UID = META.sop_instance_uid


@pytest.fixture
def server() -> Iterator[StowServer]:
    """A DICOMweb server."""
    running = StowServer()
    running.open()
    yield running
    running.close()


def send(server: StowServer, count: int = 1) -> StoreResult:
    """Send the sample, and return how it ended."""
    item = Outgoing(CT, UID, EXPLICIT, lambda: io.BytesIO(CONTENT[OFFSET:]), {}, "1.2", "1.2.3", "a" * 64)
    sender = StowSender(StowDestination(name="a", type="stow", url=server.url), Secrets(Path("/nowhere")))
    try:
        return sender.send([item] * count, seconds=60)[0]
    finally:
        sender.close()


def changed(change: Callable[[FileDataset], object]) -> bytes:
    """Return the sample as somebody else's file."""
    dataset, target = dcmread(io.BytesIO(CONTENT)), io.BytesIO()
    change(dataset)
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def compressed(dataset: FileDataset) -> None:
    """Have it as a server that compresses what it keeps."""
    dataset.compress(RLELossless, generate_instance_uid=False)


def corrected(dataset: FileDataset) -> None:
    """Have another patient's name."""
    dataset.PatientName = "Other^Name"


@pytest.mark.parametrize("failure", [ALREADY, BUSY, DUPLICATE, FAILURE])
@pytest.mark.parametrize("kept", [CONTENT, changed(compressed)], ids=["same file", "compressed"])
def test_a_copy_that_is_ours_is_delivered(server: StowServer, failure: int, kept: bytes) -> None:
    """A server that will not store twice what it has is asked for it: what is ours has arrived."""
    server.failures[UID], server.kept[UID], server.files = failure, kept, True
    result = send(server)
    assert (result.outcome, result.answer) == (Outcome.STORED, f"HTTP 409, 0x{failure:04X}")
    assert result.reason.startswith("it is there already: ")
    assert "its copy was retrieved and compared" in result.reason


@pytest.mark.parametrize("failure", [ALREADY, DUPLICATE, FAILURE])
def test_another_instance_under_the_uid_is_a_refusal_that_says_what_differs(server: StowServer, failure: int) -> None:
    """A copy with another name is not ours: the reason names the attribute, and no value."""
    server.failures[UID], server.kept[UID], server.files = failure, changed(corrected), True
    result = send(server)
    assert result.outcome is Outcome.REFUSED
    assert result.reason.startswith("the destination keeps another instance under this UID")
    assert "PatientName" in result.reason
    assert "Other" not in result.reason


def test_metadata_are_compared_where_the_instance_is_not_given(server: StowServer) -> None:
    """A server that gives only metadata is asked for those, and the reason says that pixels were not compared."""
    server.failures[UID], server.kept[UID], server.metadata = ALREADY, changed(compressed), True
    result = send(server)
    # What compressing changes in the header is in the metadata too: it is a difference that only pixels explain.
    assert (result.outcome, "PhotometricInterpretation" in result.reason) == (Outcome.STORED, False)
    assert "its pixels could not be retrieved to compare" in result.reason
    server.kept[UID] = changed(corrected)
    result = send(server)
    assert (result.outcome, "PatientName" in result.reason) == (Outcome.REFUSED, True)


@pytest.mark.parametrize(
    ("failure", "outcome", "exists"),
    [
        (ALREADY, Outcome.REFUSED, True),
        (DUPLICATE, Outcome.REFUSED, True),
        (BUSY, Outcome.UNAVAILABLE, False),
        (FAILURE, Outcome.UNAVAILABLE, False),
        (0xA900, Outcome.REFUSED, False),
        (0xB000, Outcome.REFUSED, False),
    ],
)
def test_what_cannot_be_asked_is_not_taken_for_ours(
    server: StowServer, failure: int, outcome: Outcome, exists: bool
) -> None:
    """Without its copy nobody knows; what is being stored just now, or failed in passing, is tried again."""
    server.failures[UID] = failure
    result = send(server)
    assert (result.outcome, result.exists) == (outcome, exists)
    assert len(server.given) == (0 if failure in {0xA900, 0xB000} else 2)


def test_a_conflict_without_a_word_is_asked_about(server: StowServer) -> None:
    """409 without a body says even less: the copy says it."""
    server.whole, server.kept[UID], server.files = lambda _request: Whole(409), CONTENT, True
    assert send(server).outcome is Outcome.STORED


def test_a_copy_that_cannot_be_given_now_is_asked_for_again(server: StowServer) -> None:
    """A server too busy to give its copy has neither taken nor refused: the instance waits."""
    server.failures[UID] = ALREADY
    server.busy = True
    assert send(server).outcome is Outcome.UNAVAILABLE


class LosesAnswers:
    """A script that has a server store what comes and close the connection, the first so many times."""

    def __init__(self, server: StowServer, times: int) -> None:
        self._server, self._left = server, times

    def __call__(self, request: Request) -> Whole | None:
        """Store, and answer or not."""
        if self._left:
            self._left -= 1
            self._server.failures.update(dict.fromkeys(request.uids, ALREADY))
            return Whole(None)
        return None


def test_already_there_is_the_answer_to_a_sending_that_had_none(server: StowServer, index: Index) -> None:
    """A server that stored it and lost its answer cannot be asked for copies: the two together mean delivered."""
    save_destination(index, StowDestination(name="pacs", type="stow", url=server.url))
    objects = MemoryObjectStore()
    event, other = request(objects, 1), request(objects, 2)
    server.whole = LosesAnswers(server, 1)
    assert forward([event], objects, index, SENDERS).failures[0].retryable
    assert index.delivery(event.id).unanswered_sha256 == index.delivery(event.id).sha256
    assert forward([event], objects, index, SENDERS).failures == ()
    row = index.delivery(event.id)
    assert (row.state, row.detail) == (DeliveryState.DELIVERED, "HTTP 409, 0xB00E")
    assert "the answer was lost" in row.reason

    server.failures[other.data["instance"]["sop_instance_uid"]] = ALREADY
    (failure,) = forward([other], objects, index, SENDERS).failures
    assert not failure.retryable
    assert "whether what it has is this instance is not known" in failure.reason
    assert state(index, other) is DeliveryState.FAILED


def test_an_answer_lost_for_a_whole_request_is_known_of_each_instance(server: StowServer, index: Index) -> None:
    """Instances share a request, and its answer is lost: each is sent alone at once, and is there already."""
    save_destination(index, StowDestination(name="pacs", type="stow", url=server.url))
    objects = MemoryObjectStore()
    events = [request(objects, number) for number in range(3)]
    server.whole = LosesAnswers(server, 1)
    assert forward(events, objects, index, SENDERS).failures == ()
    assert {state(index, event) for event in events} == {DeliveryState.DELIVERED}


def test_a_node_that_says_duplicate(tmp_path: Path, index: Index) -> None:
    """C-STORE answers 0x0111: delivered after a lost answer, asked to commit where it does, otherwise not known."""
    objects = MemoryObjectStore()
    lost, unknown, committing = (request(objects, number) for number in range(3))

    def script(received: ReceivedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(abort=True) if received.number == 1 else ScriptedAnswer(status.DUPLICATE_SOP_INSTANCE)

    with Destination(tmp_path, script=script) as destination:
        route_to(index, destination.port)
        assert forward([lost], objects, index, SENDERS).failures[0].retryable
        forward([lost, unknown], objects, index, SENDERS)
        assert [state(index, one) for one in (lost, unknown)] == [DeliveryState.DELIVERED, DeliveryState.FAILED]
        assert "is not known" in index.delivery(unknown.id).reason
        route_to(index, destination.port, commitment={})
        forward([committing], objects, index, SENDERS)
        assert state(index, committing) is DeliveryState.UNCOMMITTED


@pytest.mark.parametrize(
    ("code", "head", "outcome", "exists"),
    [
        ("PreconditionFailed", 403, Outcome.REFUSED, True),
        ("PreconditionFailed", 404, Outcome.UNAVAILABLE, False),
        ("ConditionalRequestConflict", 200, Outcome.UNAVAILABLE, False),
    ],
)
def test_a_key_that_cannot_be_looked_at(
    store_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    head: int,
    outcome: Outcome,
    exists: bool,
) -> None:
    """Credentials that only write, an object that went, an upload under way: each is said, none is a success."""
    world = S3World(store_settings, tmp_path)
    sender = S3Sender(world.destination, Secrets(tmp_path))

    def fails(error_code: str, http: int) -> Callable[..., object]:
        answer = {"Error": {"Code": error_code}, "ResponseMetadata": {"HTTPStatusCode": http}}

        def fail(**_: object) -> object:
            raise ClientError(answer, "operation")  # type: ignore[arg-type]

        return fail

    monkeypatch.setattr(sender._client, "put_object", fails(code, 412))
    if head != 200:
        monkeypatch.setattr(sender._client, "head_object", fails(str(head), head))
    item = Outgoing(CT, UID, EXPLICIT, lambda: io.BytesIO(b"data set"), {}, "1.2", "1.2.3", "a" * 64)
    (result,) = sender.send([item], seconds=60)
    assert (result.outcome, result.exists) == (outcome, exists)
    sender.close()
    world.leave()


def as_file(content: bytes) -> Outgoing:
    """Return an instance with other bytes under the same UIDs."""
    return Outgoing(CT, UID, EXPLICIT, lambda: io.BytesIO(content), {}, "1.2", "1.2.3", sha256_hex(content))


def sha256_hex(content: bytes) -> str:
    """Return a digest."""
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_correction_replaces_what_it_corrects_and_nothing_else(
    store_settings: Settings, tmp_path: Path, kind: str
) -> None:
    """Where nothing is overwritten, accepted bytes still take the place of ours that they correct, of no others."""
    world = S3World(store_settings, tmp_path)
    folder = FolderDestination(name="f", type="folder", folder=tmp_path)
    sender = (
        FolderSender(folder, Secrets(tmp_path)) if kind == "folder" else S3Sender(world.destination, Secrets(tmp_path))
    )
    first, second, foreign = as_file(b"wrong"), as_file(b"right"), as_file(b"foreign")

    def sent(item: Outgoing) -> Outcome:
        return sender.send([item], seconds=60)[0].outcome

    assert [sent(first), sent(second)] == [Outcome.STORED, Outcome.REFUSED]
    assert sent(replace(second, corrects=frozenset({foreign.sha256}))) is Outcome.REFUSED
    assert sent(replace(second, corrects=frozenset({first.sha256}))) is Outcome.STORED
    assert [sent(first), sent(second)] == [Outcome.REFUSED, Outcome.STORED]
    sender.close()
    world.leave()
