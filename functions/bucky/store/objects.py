"""The object store: one seam to any S3 server (MinIO API), and the in-memory fake that ships with it.

Keys are content-addressed, so storing the same bytes twice changes nothing and nothing is overwritten.
"""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from bucky.cloudevents import utc_now
from bucky.errors import NotFound, StoreUnavailable
from bucky.settings import Settings
from bucky.store.bucket import Bucket, failure

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions
    from obstore.store import ClientConfig, S3Credential

# What is larger goes in parts; one upload holds at most three parts in memory.
PART_BYTES = 5 * 1024 * 1024
PARTS_AT_ONCE = 2
CONNECT_SECONDS = 5.0
_PIECE_BYTES = 1024 * 1024
_LISTED_AT_ONCE = 1000
_ATTRIBUTES: "Attributes" = {"Content-Type": "application/dicom"}
_ANSWERED = re.compile(r"status code: (\d+)(?:.*?<Code>(\w+)</Code>)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing shows it: its size in bytes, and when it was last put."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """What Bucky asks of an object store; every method blocks.

    Raises `StoreUnavailable` when trying again can help, `NotFound` for a missing key.
    """

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        """Store `size` bytes; return only when the server has verified their checksum."""

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """Return `length` bytes from `offset`, or all to the end when `length` is 0."""

    def download(self, key: str, path: Path) -> None:
        """Write the whole object to a file."""

    def size(self, key: str) -> int:
        """Return the object's size in bytes."""

    def link(self, key: str, seconds: float) -> str:
        """Return a URL that gives this object, and nothing else, to whoever has it, for a limited time."""

    def listing(self, prefix: str = "") -> Iterator[StoredObject]:
        """Iterate over the objects whose keys begin with a prefix."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys with a prefix."""

    def check(self) -> None:
        """Raise unless the bucket can be reached."""


class S3ObjectStore:
    """An S3 bucket: objects through `obstore`, the bucket itself through the `minio` client.

    Every PUT carries a checksum of the bytes as they were read here, and `ensure_bucket` proves that the
    server compares it: a signature alone does not make every server do so.
    """

    def __init__(self, settings: Settings) -> None:
        credentials: S3Credential = {
            "access_key_id": settings.store_access_key.get_secret_value(),
            "secret_access_key": settings.store_secret_key.get_secret_value(),
            "expires_at": None,
        }
        client: ClientConfig = {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            # From the beginning of a request to its answer, and between two reads of an answer.
            "read_timeout": timedelta(seconds=settings.store_answer_seconds),
            # For the whole of a download, however large.
            "timeout": timedelta(days=1),
        }
        if settings.store_ca_file:
            client["root_certificate"] = settings.store_ca_file.read_text()
        # Everything is given: what is not would be read from the environment.
        self._store = S3Store(
            settings.store_bucket,
            endpoint=settings.store_endpoint,
            region=settings.store_region,
            checksum_algorithm=settings.store_checksum,
            unsigned_payload=True,
            virtual_hosted_style_request=False,
            skip_signature=False,
            credential_provider=lambda: credentials,
            client_options=client,
            retry_config={"max_retries": 0},
        )
        self._bucket = Bucket(settings)

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there, and prove that it refuses corrupted bytes."""
        self._bucket.ensure()
        self._bucket.prove_checksums()

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        """Store `size` bytes in one request, or in parts when larger than `PART_BYTES`."""
        with _translating(key):
            if size > PART_BYTES:
                obstore.put(
                    self._store,
                    key,
                    _pieces(content, size),
                    attributes=_ATTRIBUTES,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )
            else:
                obstore.put(
                    self._store,
                    key,
                    b"".join(_pieces(content, size)),
                    attributes=_ATTRIBUTES,
                    use_multipart=False,
                )

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """Return part of an object by a ranged GET."""
        with _translating(key):
            if length:
                return bytes(obstore.get_range(self._store, key, start=offset, length=length))
            options: GetOptions = {"range": {"offset": offset}} if offset else {}
            return bytes(obstore.get(self._store, key, options=options).bytes())

    def download(self, key: str, path: Path) -> None:
        """Write the whole object to a file, about 1 MiB at a time."""
        with path.open("wb") as file, _translating(key):
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=_PIECE_BYTES):
                file.write(chunk)

    def size(self, key: str) -> int:
        """Return the object's size in bytes."""
        with _translating(key):
            return obstore.head(self._store, key)["size"]

    def link(self, key: str, seconds: float) -> str:
        """Return a presigned GET (Signature Version 4), made here: the server is not asked."""
        return obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))

    def listing(self, prefix: str = "") -> Iterator[StoredObject]:
        """Iterate over the objects whose keys begin with a prefix, which the client takes as whole path parts."""
        with _translating(prefix):
            for page in obstore.list(self._store, prefix=prefix or None, chunk_size=_LISTED_AT_ONCE):
                for one in page:
                    yield StoredObject(one["path"], one["size"], one["last_modified"])

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys with a prefix."""
        return (one.key for one in self.listing(prefix))

    def check(self) -> None:
        """Raise unless the bucket can be reached."""
        self._bucket.check()


def _pieces(content: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield exactly `size` bytes, a piece at a time; raise `OSError` when there are fewer."""
    while size > 0:
        piece = content.read(min(size, _PIECE_BYTES))
        if not piece:
            raise OSError("fewer bytes were given than promised")
        size -= len(piece)
        yield piece


@contextmanager
def _translating(key: str) -> Iterator[None]:
    """Turn the client's exceptions into Bucky's."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        answered = _ANSWERED.search(str(error))
        if answered is None:
            raise StoreUnavailable(f"the object store cannot be reached: {type(error).__name__}") from error
        status, code = answered.groups()
        # An answer to HEAD has no body that could say more.
        raise failure(code or ("NoSuchKey" if status == "404" else status), key) from error


class MemoryObjectStore:
    """The shipped fake: a dictionary that passes the same contract suite."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._modified: dict[str, datetime] = {}

    def ensure_bucket(self) -> None:
        """Do nothing: there is always room."""

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        """Keep `size` bytes."""
        data = content.read(size)
        if len(data) != size:
            raise StoreUnavailable("fewer bytes were given than promised")
        self._objects[key] = data
        self._modified[key] = utc_now()

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """Return part of an object."""
        data = self._found(key)
        return data[offset : offset + length] if length else data[offset:]

    def download(self, key: str, path: Path) -> None:
        """Write the whole object to a file."""
        path.write_bytes(self._found(key))

    def size(self, key: str) -> int:
        """Return the object's size in bytes."""
        return len(self._found(key))

    def link(self, key: str, seconds: float) -> str:  # noqa: ARG002 - what it holds is in it
        """Return a URL that holds the object itself (RFC 2397)."""
        return "data:application/dicom;base64," + base64.b64encode(self._found(key)).decode()

    def listing(self, prefix: str = "") -> Iterator[StoredObject]:
        """Iterate over the objects whose keys begin with a prefix, in order."""
        for key in sorted(key for key in self._objects if key.startswith(prefix)):
            yield StoredObject(key, len(self._objects[key]), self._modified[key])

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys with a prefix, in order."""
        return (one.key for one in self.listing(prefix))

    def check(self) -> None:
        """Do nothing: memory is always there."""

    def _found(self, key: str) -> bytes:
        try:
            return self._objects[key]
        except KeyError:
            raise NotFound(f"the object store has no {key}") from None


def put_bytes(store: ObjectStore, key: str, content: bytes) -> None:
    """Store bytes that are already in memory."""
    store.put(key, io.BytesIO(content), len(content))
