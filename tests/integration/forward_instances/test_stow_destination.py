"""Sending by STOW-RS: what a request holds, what each answer means, and servers that misbehave."""

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import ValidationError

from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult
from bucky.errors import StoreUnavailable
from bucky.forwarding import Secrets
from bucky.forwarding.stow import StowSender
from bucky.forwarding.stow_answer import read_answer
from bucky.routing.destinations import StowDestination
from bucky.runtime.ports import free_port
from local_stack.certificates import ensure_certificates
from tests.support.destinations.stow_server import Request, StowServer, Whole
from tests.support.functions.forwarding import CT, EXPLICIT
from tests.support.network.client_certificates import asking_server, named_client
from tests.support.network.slow_line import SlowLine


@pytest.fixture
def server() -> Iterator[StowServer]:
    """A server that takes everything."""
    running = StowServer()
    running.open()
    yield running
    running.close()


def instance(number: int, content: bytes = b"data set") -> Outgoing:
    """Return an instance."""
    return Outgoing(CT, uid(number), EXPLICIT, lambda: io.BytesIO(content))


def uid(number: int) -> str:
    """Return the SOP Instance UID of an instance."""
    return f"1.2.3.{number}"


def send(url: str, items: list[Outgoing], secrets: Path = Path("/nowhere"), **fields: Any) -> list[StoreResult]:
    """Send instances to a server."""
    given = {"name": "a", "type": "stow", "url": url, "max_connections": 1, **fields}
    sender = StowSender(StowDestination.model_validate(given), Secrets(secrets))
    try:
        return sender.send(items, seconds=60)
    finally:
        sender.close()


def outcomes(results: list[StoreResult]) -> list[Outcome]:
    """Return how each instance ended."""
    return [result.outcome for result in results]


def test_several_instances_share_a_request(server: StowServer) -> None:
    """A request of its own for every slice would cost more than the slices."""
    contents = [bytes([number]) * (number * 700_000 + 1) for number in range(5)]
    results = send(server.url, [instance(n, content) for n, content in enumerate(contents)], instances_per_request=3)
    assert outcomes(results) == [Outcome.STORED] * 5
    assert {result.answer for result in results} == {"HTTP 200"}
    assert [request.uids for request in server.requests] == [[uid(0), uid(1), uid(2)], [uid(3), uid(4)]]
    assert {request.path for request in server.requests} == {"/dicom-web/studies"}
    assert [server.kept[uid(n)].endswith(content) for n, content in enumerate(contents)] == [True] * 5


def test_one_request_never_names_an_instance_twice(server: StowServer) -> None:
    """The answer knows instances by their UID alone: two versions of one must not be mistaken for each other."""
    send(server.url, [instance(1, b"one"), instance(2), instance(1, b"two")])
    assert [request.uids for request in server.requests] == [[uid(1), uid(2)], [uid(1)]]


def test_each_instance_ends_as_the_answer_says_of_it(server: StowServer) -> None:
    """A mixed answer is read instance by instance: taken, taken with a warning, refused, not now, not named."""
    server.warnings[uid(1)] = 0xB000
    server.failures.update({uid(2): 0xA900, uid(3): 0xA700, uid(5): 0xC122})
    server.unnamed.add(uid(4))
    results = send(server.url, [instance(number) for number in range(6)])
    assert [(result.outcome, result.answer) for result in results] == [
        (Outcome.STORED, "HTTP 202"),
        (Outcome.WARNED, "HTTP 202, 0xB000"),
        (Outcome.REFUSED, "HTTP 202, 0xA900"),
        (Outcome.UNAVAILABLE, "HTTP 202, 0xA700"),
        (Outcome.UNAVAILABLE, "HTTP 202"),
        (Outcome.REFUSED, "HTTP 202, 0xC122"),
    ]
    assert results[2].reason == "the destination answered 0xA900, data set does not match SOP class"
    assert results[4].reason == "the destination answered HTTP 202 but did not name the instance"


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
def test_an_instance_that_spoils_a_request_is_found(server: StowServer, status: int) -> None:
    """One instance that makes a server refuse the whole request must not take the others with it."""
    server.whole = lambda request: Whole(status, b"DOE^JANE") if uid(2) in request.uids else None
    results = send(server.url, [instance(number) for number in range(5)])
    assert outcomes(results) == [*[Outcome.STORED] * 2, Outcome.REFUSED, *[Outcome.STORED] * 2]
    assert results[2].reason == f"{server.url} answered HTTP {status}"
    assert len(server.requests) == 1 + 5


@pytest.mark.parametrize(
    "whole", [Whole(500), Whole(None), Whole(500, b'{"HttpError": "x"}', {"Content-Type": "application/json"})]
)
def test_an_instance_that_breaks_the_server_delays_itself_alone(server: StowServer, whole: Whole) -> None:
    """An instance that crashes the destination waits; the others of its request arrive."""
    server.whole = lambda request: whole if uid(2) in request.uids else None
    results = send(server.url, [instance(number) for number in range(5)])
    assert outcomes(results) == [*[Outcome.STORED] * 2, Outcome.UNAVAILABLE, *[Outcome.STORED] * 2]


def test_a_server_that_always_fails_is_left_alone(server: StowServer) -> None:
    """A server in trouble must not be called once per instance of a batch."""
    server.whole = lambda _request: Whole(500)
    results = send(server.url, [instance(number) for number in range(20)])
    assert outcomes(results) == [Outcome.UNAVAILABLE] * 20
    assert len(server.requests) == 1 + 3


@pytest.mark.parametrize(
    ("whole", "retry_after", "words"),
    [
        (Whole(503, headers={"Retry-After": "7"}), 7.0, "answered HTTP 503"),
        (Whole(429, headers={"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}), None, "answered HTTP 429"),
        (Whole(401), 30.0, "what our credentials allow"),
        (Whole(404), 30.0, "check its address"),
        (Whole(302, headers={"Location": "http://127.0.0.1:1/"}), 30.0, "answered HTTP 302"),
        (Whole(200, b"<html>", {"Content-Type": "text/html"}), 30.0, "not with the DICOM JSON"),
        (Whole(200), 30.0, "not with the DICOM JSON"),
        (Whole(200, b"[1]", {"Content-Type": "application/json"}), 30.0, "not with the DICOM JSON"),
    ],
)
def test_what_is_no_instances_fault_makes_all_wait(
    server: StowServer, whole: Whole, retry_after: float | None, words: str
) -> None:
    """A server that is busy, misconfigured or no DICOMweb server at all loses nothing, and is asked once."""
    server.whole = lambda _request: whole
    results = send(server.url, [instance(1), instance(2)])
    assert outcomes(results) == [Outcome.UNAVAILABLE] * 2
    assert {result.retry_after for result in results} == {retry_after}
    assert words in results[0].reason
    assert len(server.requests) == 1


def test_an_instance_that_cannot_be_had_is_left_out_of_the_request(server: StowServer) -> None:
    """An object the store cannot give must not make a malformed request, whichever place it has in it."""

    def missing() -> io.BytesIO:
        raise StoreUnavailable("the object store cannot be reached", 3.0)

    def lacking(number: int) -> Outgoing:
        return Outgoing(CT, uid(number), EXPLICIT, missing)

    results = send(server.url, [lacking(0), instance(1), lacking(2), instance(3), lacking(4)])
    assert [request.uids for request in server.requests] == [[uid(1), uid(3)]]
    away = StoreResult(Outcome.UNAVAILABLE, "the object store cannot be reached", retry_after=3.0)
    assert [results[0], results[2], results[4]] == [away] * 3
    assert send(server.url, [lacking(0)]) == [away]
    assert [request.uids for request in server.requests[1:] if request.uids] == []


def test_an_answer_that_comes_too_early_counts_for_nothing() -> None:
    """A server cannot have stored what it did not wait for, whatever it says."""

    class Hasty(httpx.BaseTransport):
        def handle_request(self, _request: httpx.Request) -> httpx.Response:
            document = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid(1)]}}]}}
            return httpx.Response(200, json=document)

    given = {"name": "a", "type": "stow", "url": "http://127.0.0.1"}
    sender = StowSender(StowDestination.model_validate(given), Secrets(Path("/nowhere")))
    sender.close()
    sender._client = httpx.Client(transport=Hasty())
    results = sender.send([instance(1), instance(2)], seconds=60)
    sender.close()
    assert outcomes(results) == [Outcome.UNAVAILABLE] * 2
    assert "before the instance was sent" in results[0].reason


def test_the_secrets_it_needs_go_with_each_request(server: StowServer, tmp_path: Path) -> None:
    """A server that asks who we are gets the password or the token that the secret holds."""
    (tmp_path / "destination-archive").write_text("s3cr:et\n")
    send(
        server.url,
        [instance(1)],
        tmp_path,
        auth={"type": "basic", "username": "bucky", "password_secret": "destination-archive"},
    )
    send(server.url, [instance(1)], tmp_path, auth={"type": "bearer", "token_secret": "destination-archive"})
    assert [request.headers["Authorization"] for request in server.requests] == [
        "Basic " + base64.b64encode(b"bucky:s3cr:et").decode(),
        "Bearer s3cr:et",
    ]


def test_a_secret_is_never_sent_in_clear_over_a_network() -> None:
    """Who listens on the way must not learn a password."""
    with pytest.raises(ValidationError, match="auth needs an https URL"):
        send("http://archive.example.org", [], auth={"type": "bearer", "token_secret": "destination-archive"})


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_is_used_and_both_certificates_are_checked(tmp_path: Path, trusted: bool) -> None:
    """Patients' data goes to who holds the right certificate, and comes from who holds ours."""
    certificates = ensure_certificates(tmp_path / "tls", ["127.0.0.1"])
    others = ensure_certificates(tmp_path / "others", ["127.0.0.1"])
    named_client(certificates, tmp_path)
    (tmp_path / "modality.pem").rename(tmp_path / "destination-identity")
    server = StowServer(asking_server(certificates))
    server.open()
    ca = str((certificates if trusted else others).ca)
    identity = {"tls_identity_secret": "destination-identity"} if trusted else {}
    (result,) = send(server.url, [instance(1)], tmp_path, tls_ca_file=ca, **identity)
    if trusted:
        assert (result.outcome, list(server.kept)) == (Outcome.STORED, [uid(1)])
        (nameless,) = send(server.url, [instance(2)], tmp_path, tls_ca_file=ca)
        assert nameless.outcome is Outcome.UNAVAILABLE
    else:
        assert (result.outcome, server.kept) == (Outcome.UNAVAILABLE, {})
        assert "certificate is not valid" in result.reason
    server.close()


def test_nobody_there_says_so() -> None:
    """The reason that people read must say what to look at."""
    (result,) = send(f"http://127.0.0.1:{free_port()}", [instance(1)])
    assert result.reason.endswith("cannot be reached: Connection refused")


def test_an_answer_that_never_comes_has_an_end(server: StowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hung server must not hold a sender for ever."""
    monkeypatch.setattr("bucky.forwarding.stow.ANSWER_FACTOR", 1)
    finished = threading.Event()

    def hang(_request: Request) -> None:
        finished.wait(10)

    server.whole = hang
    (result,) = send(server.url, [instance(1)], timeout_seconds=0.3)
    assert (result.outcome, result.reason) == (
        Outcome.UNAVAILABLE,
        f"{server.url} broke the connection: no answer in time",
    )
    finished.set()


def test_over_a_slow_line_the_answer_is_waited_for_when_all_has_left(
    server: StowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that takes longer than an answer may must arrive, not be sent again and again for ever."""
    monkeypatch.setattr("bucky.forwarding.stow.ANSWER_FACTOR", 1)
    with SlowLine(urlsplit(server.url).port or 0, bytes_per_second=100_000) as line:
        url = f"http://127.0.0.1:{line.port}/dicom-web"
        (result,) = send(url, [instance(1, bytes(400_000))], timeout_seconds=1.5)
    assert (result.outcome, result.reason) == (Outcome.STORED, "")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[{},{}]",
        b"3",
        b'{"00081199": 1}',
        b'{"00081199": {"Value": [1]}}',
        b'{"00081198": {"Value": [{"00081197": {"Value": [70000]}}]}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_never_read_as_one(body: bytes) -> None:
    """Nothing but a Store Instances Response may ever mean "delivered"."""
    with pytest.raises(ValidationError):
        read_answer(body)


def test_answers_in_the_forms_servers_use_are_read() -> None:
    """Some servers wrap the data set in a list, leave sequences out, or give no reason."""
    assert read_answer(b"{}").stored == {}
    assert read_answer(b'[{"00081199": {"vr": "SQ"}}]').stored == {}
    stored = b'{"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}, "00081190": {}}]}}'
    assert read_answer(stored).stored == {"1.2": None}
    failed = b'{"00081198": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}}]}}'
    assert read_answer(failed).failed == {"1.2": 0x0110}
