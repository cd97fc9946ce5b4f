"""What every object store must do: the in-memory fake and the real S3 server pass the same suite."""

import hashlib
import io
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucky.errors import InvalidInstance, NotFound, StoreUnavailable
from bucky.objects import MemoryObjectStore, ObjectStore, S3ObjectStore, object_key, put_bytes
from bucky.settings import Settings
from local_stack.servers import free_port

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


def test_short_content_is_not_stored(store: ObjectStore) -> None:
    """Fewer bytes than promised never become an object."""
    with pytest.raises((StoreUnavailable, OSError)):
        store.put(KEY, io.BytesIO(b"abc"), 10)
    with pytest.raises(NotFound):
        store.size(KEY)


def test_no_server_is_retriable() -> None:
    """A store that cannot be reached is worth trying again."""
    settings = Settings.load({"BUCKY_STORE_ENDPOINT": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        S3ObjectStore(settings.model_copy(update={"store_access_key": settings.api_key})).check()


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
