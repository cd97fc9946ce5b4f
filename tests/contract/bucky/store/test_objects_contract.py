"""What every object store must do: the in-memory fake and the real S3 server pass the same suite."""

import hashlib
import io
import resource
import secrets
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from bucky.errors import InvalidInstance, NotFound, StoreUnavailable
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from bucky.store.keys import object_key
from bucky.store.objects import PART_BYTES, MemoryObjectStore, ObjectStore, S3ObjectStore, put_bytes
from tests.support.waiting import eventually

pytestmark = pytest.mark.store

KEY = object_key("1.2", "1.2.3", "1.2.3.4", "a" * 64)


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """Each implementation in turn."""
    if request.param == "memory":
        yield MemoryObjectStore()
    else:
        yield S3ObjectStore(request.getfixturevalue("store_settings"))


def test_bytes_come_back_as_they_went(store: ObjectStore, tmp_path: Path) -> None:
    """The object is the file, byte for byte, however it is read."""
    content = secrets.token_bytes(300_001)
    put_bytes(store, KEY, content)
    assert store.get(KEY) == content
    assert store.get(KEY, 100, 50) == content[100:150]
    assert store.get(KEY, 300_000) == content[300_000:]
    assert store.size(KEY) == len(content)
    store.download(KEY, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_storing_twice_is_no_change(store: ObjectStore) -> None:
    """The same key twice leaves one object."""
    put_bytes(store, KEY, b"same")
    put_bytes(store, KEY, b"same")
    assert list(store.keys("studies/1.2/")) == [KEY]


def test_missing_key_is_not_found(store: ObjectStore) -> None:
    """A key that is not there is a permanent error of its own, in every way of asking."""
    for ask in (store.get, store.size):
        with pytest.raises(NotFound):
            ask(KEY)


def test_a_link_gives_the_object_and_no_other(store: ObjectStore) -> None:
    """Who has a link, and no key of the store, reads this object by it."""
    content = secrets.token_bytes(1000)
    put_bytes(store, KEY, content)
    with urlopen(store.link(KEY, 60)) as file:  # noqa: S310 - the store made it
        assert file.read() == content


def test_a_link_for_one_object_opens_no_other(store_settings: Settings) -> None:
    """A link that was changed to name another key is refused by the server, and any is once its time is over."""
    store, other = S3ObjectStore(store_settings), KEY.replace("a" * 64, "b" * 64)
    for key in (KEY, other):
        put_bytes(store, key, b"x")
    assert refused(store.link(KEY, 60).replace("a" * 64, "b" * 64))
    assert not refused(store.link(KEY, 60))
    short = store.link(KEY, 1)
    eventually(lambda: refused(short), "the link is over")


def refused(link: str) -> bool:
    """Say whether the store refuses a link."""
    try:
        with urlopen(link):  # noqa: S310 - the store made it
            return False
    except HTTPError as error:
        with error:
            return error.code == HTTPStatus.FORBIDDEN


def test_prefix_selects(store: ObjectStore) -> None:
    """Listing sees exactly what is below a prefix."""
    others = [object_key("1.9", "1.2", f"1.2.{n}", f"{n:064x}") for n in range(3)]
    for key in [KEY, *others]:
        put_bytes(store, key, b"x")
    assert sorted(store.keys("studies/1.9/")) == others
    assert sorted(store.keys()) == sorted([KEY, *others])


def test_check_passes_where_the_bucket_is(store: ObjectStore) -> None:
    """A reachable bucket is healthy."""
    store.ensure_bucket()
    store.check()


def test_large_objects_go_in_parts(store_settings: Settings, tmp_path: Path) -> None:
    """An object above the multipart limit is whole and the same."""
    store = S3ObjectStore(store_settings)
    block = secrets.token_bytes(1024 * 1024)
    file = tmp_path / "large"
    with file.open("wb") as out:
        for _ in range(70):
            out.write(block)
    with file.open("rb") as content:
        store.put(KEY, content, file.stat().st_size)
    store.download(KEY, tmp_path / "copy")
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest()


def test_memory_does_not_grow_with_the_object(store_settings: Settings, tmp_path: Path) -> None:
    """However large an instance is, uploading it holds a few parts of it in memory."""
    store = S3ObjectStore(store_settings)
    size = 200_000_000
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    put_bytes(store, KEY, bytes(PART_BYTES))
    before = _resident_bytes()
    most, over = before, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, _resident_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    with (tmp_path / "large").open("rb") as content:
        store.put(KEY, content, size)
    over.set()
    watching.join()
    assert store.size(KEY) == size
    assert most - before < 20_000_000


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_short_content_is_not_stored(store: ObjectStore) -> None:
    """Fewer bytes than promised never become an object."""
    with pytest.raises((StoreUnavailable, OSError)):
        store.put(KEY, io.BytesIO(b"abc"), 10)
    with pytest.raises(NotFound):
        store.size(KEY)


def test_short_content_of_many_parts_is_not_stored(store_settings: Settings) -> None:
    """A large file that was cut short never becomes an object either."""
    store = S3ObjectStore(store_settings)
    with pytest.raises((StoreUnavailable, OSError)):
        store.put(KEY, io.BytesIO(bytes(PART_BYTES + 1000)), 3 * PART_BYTES)
    with pytest.raises(NotFound):
        store.size(KEY)


@contextmanager
def _way_that_corrupts(settings: Settings) -> Iterator[tuple[Settings, list[int]]]:
    """Yield settings whose way to the store changes `FLIPME` in what passes, and a list of how often it did."""
    host, _, port = settings.store_endpoint.removeprefix("http://").rpartition(":")
    flips: list[int] = []

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as store:
                threading.Thread(target=self._carry, args=(store, self.request), daemon=True).start()
                self._carry(self.request, store)

        def _carry(self, origin: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := origin.recv(65536):
                    flips.extend([1] * data.count(b"FLIPME"))
                    target.sendall(data.replace(b"FLIPME", b"FLIPNE"))
            for end in (origin, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    class Ways(socketserver.ThreadingTCPServer):
        daemon_threads = True  # the client keeps its connections open

    with Ways(("127.0.0.1", 0), Way) as server:
        threading.Thread(target=server.serve_forever).start()
        address = server.server_address
        yield settings.model_copy(update={"store_endpoint": f"http://127.0.0.1:{address[1]}"}), flips
        server.shutdown()


@pytest.mark.parametrize("size", [20, 500_000, 2 * PART_BYTES + 5])
@pytest.mark.parametrize("checksum", ["crc64nvme", "sha256"])
def test_bytes_changed_on_the_way_are_refused(store_settings: Settings, size: int, checksum: str) -> None:
    """What a broken network card or a proxy did to an upload never becomes an object."""
    content = b"FLIPME" + secrets.token_bytes(size)
    with _way_that_corrupts(store_settings.model_copy(update={"store_checksum": checksum})) as (settings, flips):
        store = S3ObjectStore(settings)
        store.ensure_bucket()
        assert not flips
        with pytest.raises(StoreUnavailable, match="answered"):
            put_bytes(store, KEY, content)
        assert flips
    with pytest.raises(NotFound):
        S3ObjectStore(store_settings).size(KEY)


@pytest.mark.parametrize("checksum", ["crc64nvme", "sha256"])
def test_a_store_that_verifies_leaves_no_trace_of_the_proof(store_settings: Settings, checksum: str) -> None:
    """The proof that wrong bytes are refused adds nothing to the bucket."""
    store = S3ObjectStore(store_settings.model_copy(update={"store_checksum": checksum}))
    store.ensure_bucket()
    assert list(store.keys()) == []


def test_a_store_that_does_not_verify_is_not_trusted() -> None:
    """Where wrong bytes are taken without a word nothing is uploaded, so nothing is released either."""

    class Credulous(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(204 if self.command == "DELETE" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_DELETE = answer  # noqa: N815 - named by http.server

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Credulous) as server:
        threading.Thread(target=server.serve_forever).start()
        settings = Settings.load(
            {
                "BUCKY_STORE_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "BUCKY_STORE_ACCESS_KEY": "a",
                "BUCKY_STORE_SECRET_KEY": "b",
            }
        )
        with pytest.raises(StoreUnavailable, match="BUCKY_STORE_CHECKSUM"):
            S3ObjectStore(settings).ensure_bucket()
        server.shutdown()


def test_the_environment_of_other_programs_changes_nothing(
    store_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and options meant for other S3 clients do not leak into ours."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_SESSION_TOKEN": "z",
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_UNSIGNED_PAYLOAD": "false",
        "AWS_CHECKSUM_ALGORITHM": "SHA256",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_REGION": "eu-west-9",
    }.items():
        monkeypatch.setenv(name, value)
    store = S3ObjectStore(store_settings)
    put_bytes(store, KEY, b"x")
    assert store.get(KEY) == b"x"


def test_no_server_is_retriable() -> None:
    """A store that cannot be reached is worth trying again, whatever was asked of it."""
    settings = Settings.load({"BUCKY_STORE_ENDPOINT": f"http://127.0.0.1:{free_port()}"})
    store = S3ObjectStore(settings.model_copy(update={"store_access_key": settings.api_key}))
    for ask in (store.check, lambda: put_bytes(store, KEY, b"x"), lambda: store.get(KEY), lambda: store.size(KEY)):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            ask()


def test_wrong_secret_is_refused(store_settings: Settings) -> None:
    """Wrong credentials say what to look at, and make nobody give an instance up."""
    wrong = Settings.load(
        {
            "BUCKY_STORE_ENDPOINT": store_settings.store_endpoint,
            "BUCKY_STORE_ACCESS_KEY": store_settings.store_access_key.get_secret_value(),
            "BUCKY_STORE_SECRET_KEY": "not-the-secret-key",
            "BUCKY_STORE_BUCKET": store_settings.store_bucket,
        }
    )
    with pytest.raises(StoreUnavailable, match="the keys"):
        put_bytes(S3ObjectStore(wrong), KEY, b"x")


def test_missing_bucket_is_worth_waiting_for(store_settings: Settings) -> None:
    """A bucket that somebody forgot, or removed, is nobody's permanent failure."""
    elsewhere = S3ObjectStore(store_settings.model_copy(update={"store_bucket": "not-made-yet"}))
    with pytest.raises(StoreUnavailable, match="BUCKY_STORE_BUCKET"):
        elsewhere.check()


@pytest.mark.parametrize("uid", ["", "../../x", "1.2/3", "1" * 65, "1.2\n", "..", "\u0661.\u0662"])
def test_no_key_from_a_bad_uid(uid: str) -> None:
    """Nothing but a UID ever becomes part of a path."""
    with pytest.raises(InvalidInstance):
        object_key("1.2", "1.3", uid, "a" * 64)
