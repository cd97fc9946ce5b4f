"""The contract every function answers, asked over HTTP of handlers of each shape."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import httpx
import pydicom
import pytest

from bucky.cloudevents import BATCH_MEDIA_TYPE, MEDIA_TYPE, CloudEvent
from bucky.errors import Permanent, Retriable
from bucky.serve.app import FunctionApp
from bucky.serve.contract import BatchResult, ItemFailure
from bucky.serve.dependencies import Dependencies
from bucky.serve.handlers import Context, load_handler
from bucky.serve.processing_input import Made, ProcessingInput
from bucky.settings import Settings
from process_instances.parts import Parts
from tests.support.dicom.sample_instances import SAMPLE


def judge(event: CloudEvent) -> list[CloudEvent]:
    """Do what the event asks for: fail in one of three ways, or say that it happened."""
    wish = event.data["wish"]
    if wish == "permanent":
        raise Permanent("it can never work")
    if wish == "retriable":
        raise Retriable("it may work later", retry_after=7)
    if wish == "bug":
        raise KeyError("PatientName Doe^John")
    return [CloudEvent(id=event.id, source="/test", type="test.done", data=None)]


def handle(event: CloudEvent, ctx: Context) -> list[CloudEvent]:
    """Return a list."""
    assert ctx.function == "contract-handler"
    return judge(event)


def handle_generator(event: CloudEvent, _ctx: Context) -> Iterator[CloudEvent]:
    """Yield the events."""
    yield from judge(event)


async def handle_async(event: CloudEvent, _ctx: Context) -> list[CloudEvent]:
    """Return a list, later."""
    await asyncio.sleep(0)
    return judge(event)


def handle_batch(events: Sequence[CloudEvent], _ctx: Context) -> BatchResult:
    """Judge each event and collect."""
    failures: list[ItemFailure] = []
    done: list[CloudEvent] = []
    for event in events:
        try:
            done += judge(event)
        except Permanent as error:
            failures.append(ItemFailure(item_identifier=event.id, retryable=False, reason=str(error)))
        except (Retriable, KeyError) as error:
            wait = error.retry_after if isinstance(error, Retriable) else None
            failures.append(
                ItemFailure(
                    item_identifier=event.id,
                    retryable=True,
                    retry_after=wait,
                    reason=str(error) if wait else f"unexpected {type(error).__name__}",
                )
            )
    return BatchResult(failures=tuple(failures), events=tuple(done))


def whole_batch_permanent(_events: Sequence[CloudEvent], _ctx: Context) -> BatchResult:
    """Refuse the batch."""
    raise Permanent("one of these is wrong")


def whole_batch_retriable(_events: Sequence[CloudEvent], _ctx: Context) -> BatchResult:
    """Ask for another time."""
    raise Retriable("the index is away", retry_after=3)


def whole_batch_liar(_events: Sequence[CloudEvent], _ctx: Context) -> BatchResult:
    """Name an event that was not sent."""
    return BatchResult(failures=(ItemFailure(item_identifier="other", retryable=False, reason="?"),), events=())


Serve = Callable[..., Any]


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Serve a handler in this process and return a client that calls it."""
    clients: list[httpx.AsyncClient] = []

    async def start(kind: str, call: Callable[..., Any], **limits: int) -> httpx.AsyncClient:
        module = ModuleType("contract_handler.handler")
        setattr(module, kind, call)
        monkeypatch.setitem(__import__("sys").modules, "contract_handler", ModuleType("contract_handler"))
        monkeypatch.setitem(__import__("sys").modules, "contract_handler.handler", module)
        handler = load_handler("contract_handler.handler")
        dependencies = Dependencies(handler, Settings.load({}))
        await dependencies.open()
        app = FunctionApp(
            handler,
            dependencies,
            max_body_bytes=limits.get("max_body_bytes", 100_000),
            max_in_flight=limits.get("max_in_flight", 4),
        )
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app.asgi), base_url="http://function")
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.aclose()


def event(identifier: str, wish: str = "done", **extra: Any) -> dict[str, Any]:
    """Return a structured-mode CloudEvent."""
    return {
        "specversion": "1.0",
        "id": identifier,
        "source": "/test",
        "type": "test.asked",
        "data": {"wish": wish},
        **extra,
    }


async def post_batch(client: httpx.AsyncClient, events: list[dict[str, Any]]) -> httpx.Response:
    """Post a batch."""
    return await client.post("/", content=json.dumps(events), headers={"content-type": BATCH_MEDIA_TYPE})


SHAPES = [
    ("handle", handle),
    ("handle", handle_generator),
    ("handle", handle_async),
    ("handle_batch", handle_batch),
]


@pytest.mark.parametrize(("kind", "call"), SHAPES, ids=[call.__name__ for _, call in SHAPES])
async def test_every_shape_of_handler_answers_the_same_contract(
    serve: Serve, kind: str, call: Callable[..., Any]
) -> None:
    """Protects one answer, event by event, whatever way the handler is written."""
    client = await serve(kind, call)
    response = await post_batch(
        client, [event("a"), event("b", "permanent"), event("c", "retriable"), event("d", "bug"), event("e")]
    )
    assert response.status_code == 200
    result = BatchResult.parse(response.content, {"a", "b", "c", "d", "e"})
    assert [made.id for made in result.events] == ["a", "e"]
    by_id = {failure.item_identifier: failure for failure in result.failures}
    assert set(by_id) == {"b", "c", "d"}
    assert (by_id["b"].retryable, by_id["b"].reason) == (False, "it can never work")
    assert (by_id["c"].retryable, by_id["c"].retry_after) == (True, 7)
    assert (by_id["d"].retryable, by_id["d"].reason) == (True, "unexpected KeyError")


async def test_an_empty_batch_is_answered_with_an_empty_result(serve: Serve) -> None:
    """Protects the smallest request there is."""
    response = await post_batch(await serve("handle", handle), [])
    assert response.json() == {"batchItemFailures": [], "events": []}


async def test_a_single_structured_event_gets_the_batch_answer_on_any_path(serve: Serve) -> None:
    """Protects callers that send one event, to whatever path their gateway leaves."""
    client = await serve("handle", handle)
    response = await client.post(
        "/some/path", content=json.dumps(event("a")), headers={"content-type": MEDIA_TYPE + "; charset=utf-8"}
    )
    assert [made["id"] for made in response.json()["events"]] == ["a"]


async def test_a_binary_event_carries_its_attributes_in_headers(serve: Serve) -> None:
    """Protects Knative-style senders: attributes in headers, percent-encoded, data in the body."""
    seen: list[CloudEvent] = []

    def remember(one: CloudEvent, _ctx: Context) -> None:
        seen.append(one)

    client = await serve("handle", remember)
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "a%20b",
        "ce-source": "/test",
        "ce-type": "test.asked",
        "ce-partitionkey": "pacs",
    }
    json_answer = await client.post(
        "/", content=b'{"wish": 1}', headers={**headers, "content-type": "application/json"}
    )
    bytes_answer = await client.post("/", content=b"\x00\x01", headers={**headers, "content-type": "application/dicom"})
    assert (json_answer.status_code, bytes_answer.status_code) == (200, 200)
    assert (seen[0].id, seen[0].partitionkey, seen[0].data) == ("a b", "pacs", {"wish": 1})
    assert seen[1].model_dump()["data_base64"] == "AAE="


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (BATCH_MEDIA_TYPE, b"not json"),
        (BATCH_MEDIA_TYPE, b'{"id": "a"}'),
        (BATCH_MEDIA_TYPE, b'[{"id": "a", "source": "/x", "type": "t", "specversion": "9"}]'),
        (MEDIA_TYPE, b"[]"),
        (MEDIA_TYPE, b"\xff\xfe"),
        ("text/plain", b"PatientName Doe^John"),
        ("", b""),
    ],
)
async def test_what_is_no_cloud_event_is_refused_with_a_reason(serve: Serve, content_type: str, body: bytes) -> None:
    """Protects against guessing: 400 with a JSON error that repeats nothing of the body."""
    client = await serve("handle", handle)
    response = await client.post("/", content=body, headers={"content-type": content_type})
    assert response.status_code == 400
    assert len(response.json()["error"]) > 10
    assert "Doe" not in response.text


async def test_a_body_over_the_limit_is_refused(serve: Serve) -> None:
    """Protects memory: 413 past the limit, whatever the body is."""
    client = await serve("handle", handle, max_body_bytes=1000)
    response = await post_batch(client, [event("a", padding="x" * 2000)])
    assert response.status_code == 413
    assert "larger than 1000 bytes" in response.json()["error"]
    assert (await post_batch(client, [event("a")])).status_code == 200


async def test_more_batches_than_allowed_are_told_to_come_back(serve: Serve) -> None:
    """Protects a busy function: 429 with Retry-After, and the batch in hand is still answered."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def wait(_event: CloudEvent, _ctx: Context) -> None:
        entered.set()
        await release.wait()

    client = await serve("handle", wait, max_in_flight=1)
    first = asyncio.create_task(post_batch(client, [event("a")]))
    await entered.wait()
    second = await post_batch(client, [event("b")])
    release.set()
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    assert (await first).status_code == 200


async def test_exact_duplicates_in_a_batch_are_processed_once(serve: Serve) -> None:
    """Protects against doing the same work twice when a stream holds an event twice."""
    client = await serve("handle", handle)
    response = await post_batch(client, [event("a"), event("a")])
    assert [made["id"] for made in response.json()["events"]] == ["a"]


async def test_events_that_share_an_id_share_a_failure(serve: Serve) -> None:
    """Protects both of two different events with one id: if either may be tried again, both are."""
    client = await serve("handle", handle)
    response = await post_batch(
        client,
        [event("a", "permanent"), event("a", "retriable", type="test.other"), event("a", type="test.third")],
    )
    (failure,) = response.json()["batchItemFailures"]
    assert (failure["itemIdentifier"], failure["retryable"]) == ("a", True)


async def test_a_batch_handler_that_refuses_everything_asks_to_be_given_less(serve: Serve) -> None:
    """Protects the neighbours of one wrong event: several give 422, a lone one gives its failure."""
    client = await serve("handle_batch", whole_batch_permanent)
    several = await post_batch(client, [event("a"), event("b")])
    alone = await post_batch(client, [event("a")])
    assert (several.status_code, several.json()) == (422, {"error": "one of these is wrong"})
    assert alone.json()["batchItemFailures"] == [
        {"itemIdentifier": "a", "retryable": False, "attempted": True, "reason": "one of these is wrong"}
    ]


async def test_a_batch_handler_that_cannot_now_fails_every_event_for_now(serve: Serve) -> None:
    """Protects events from a dependency that is away: each is to be tried again, after the wait asked for."""
    response = await post_batch(await serve("handle_batch", whole_batch_retriable), [event("a"), event("b")])
    failures = response.json()["batchItemFailures"]
    assert [(f["itemIdentifier"], f["retryable"], f["retryAfter"]) for f in failures] == [
        ("a", True, 3),
        ("b", True, 3),
    ]


@pytest.mark.parametrize("call", [whole_batch_liar, lambda _events, _ctx: None])
async def test_a_batch_handler_that_breaks_the_contract_is_a_500(serve: Serve, call: Callable[..., Any]) -> None:
    """Protects the caller from a result that cannot be matched to what it sent."""
    response = await post_batch(await serve("handle_batch", call), [event("a")])
    assert (response.status_code, response.json()) == (500, {"error": "unexpected TypeError"})


def begun(identifier: str = "1") -> dict[str, Any]:
    """Return the event that a function that processes gets."""
    data = {
        **{"function": "f", "rule": "r", "rule_version": 1, "parameters": {}, "unit": "study"},
        **{"study_instance_uid": "1.2", "instances": []},
    }
    return {**event(identifier), "type": "dicom.processing.begun", "time": "2026-11-01T00:00:00Z", "data": data}


async def test_results_are_answered_as_dicom(serve: Serve) -> None:
    """What a handler yields, files and data sets, is one multipart answer that is sound DICOM throughout."""
    dataset = pydicom.dcmread(SAMPLE)

    def process(given: ProcessingInput, _ctx: Context) -> Iterator[Made]:
        assert (given.id, given.unit) == ("1", "study")
        yield SAMPLE.read_bytes()
        yield dataset

    client = await serve("process", process)
    answer = await client.post("/", json=begun(), headers={"Content-Type": MEDIA_TYPE})
    assert answer.headers["content-type"].startswith('multipart/related; type="application/dicom"')
    boundary = answer.headers["content-type"].rpartition("boundary=")[2]
    files = [b"".join(content) for _, content in Parts([answer.content], boundary)]
    assert files[0] == SAMPLE.read_bytes()
    assert pydicom.dcmread(io.BytesIO(files[1])) == dataset
    assert (await client.get("/health")).json()["in_flight"] == 0


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (Permanent("no CT"), 200, {"retryable": False, "reason": "no CT"}),
        (Retriable("no GPU", 7), 200, {"retryable": True, "retryAfter": 7.0, "reason": "no GPU"}),
        (KeyError("PatientName Doe^John"), 500, {}),
    ],
)
async def test_a_function_that_fails_half_way_answers_no_result(
    serve: Serve, error: Exception, status: int, shown: dict[str, Any]
) -> None:
    """A failure after the first result is told as one: nothing of a half-made answer goes out."""

    def process(_given: ProcessingInput, _ctx: Context) -> Iterator[Made]:
        yield SAMPLE.read_bytes()
        raise error

    client = await serve("process", process)
    answer = await client.post("/", json=begun(), headers={"Content-Type": MEDIA_TYPE})
    assert answer.status_code == status
    assert "Doe" not in answer.text
    if shown:
        (failure,) = answer.json()["batchItemFailures"]
        assert shown.items() <= failure.items()
    assert (await client.get("/health")).json()["in_flight"] == 0


async def test_what_asks_for_no_processing_is_refused(serve: Serve) -> None:
    """A function that processes takes one event at a time, of its own kind."""

    def process(_given: ProcessingInput, _ctx: Context) -> Iterator[Made]:
        yield b""

    client = await serve("process", process)
    assert (await post_batch(client, [begun("1"), begun("2")])).status_code == 400
    (failure,) = (await post_batch(client, [event("1")])).json()["batchItemFailures"]
    assert not failure["retryable"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"events": []}',
        b'{"batchItemFailures": []}',
        b'{"batchItemFailures": [{"itemIdentifier": "a"}], "events": []}',
        b'{"batchItemFailures": [{"itemIdentifier": "z", "retryable": true, "reason": ""}], "events": []}',
        b'{"batchItemFailures": [], "events": [{"id": "a"}]}',
        b'{"batchItemFailures": null, "events": []}',
    ],
)
def test_an_answer_that_breaks_the_contract_never_counts_as_success(body: bytes) -> None:
    """Protects events from being acknowledged on the word of something that is not a function."""
    with pytest.raises(ValueError, match=r".+"):
        BatchResult.parse(body, {"a"})
