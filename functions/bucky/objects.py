"""The object store: one seam to any S3 server (MinIO API), and the in-memory fake that ships with it.

Keys are content-addressed, so storing the same bytes twice changes nothing and nothing is overwritten.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from bucky.errors import NotFound, StoreUnavailable
from bucky.settings import Settings
from bucky.uids import checked_uid

MULTIPART_BYTES = 64 * 1024 * 1024
_MISSING = {"NoSuchKey", "NoSuchObject"}
# Somebody must put these right, but they are not the instance's fault: it waits, and is not given up.
_MISCONFIGURED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidBucketName", "NoSuchBucket"}


def object_key(study: str, series: str, instance: str, sha256: str) -> str:
    """Return `studies/<study>/<series>/<instance>/<sha256>.dcm`, every UID checked first."""
    return "/".join(
        (
            "studies",
            checked_uid(study, "StudyInstanceUID"),
            checked_uid(series, "SeriesInstanceUID"),
            checked_uid(instance, "SOPInstanceUID"),
            f"{sha256}.dcm",
        )
    )


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

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys with a prefix."""

    def check(self) -> None:
        """Raise unless the bucket can be reached."""


class S3ObjectStore:
    """An S3 bucket through the `minio` client.

    Over HTTP the client signs the payload's SHA-256, over HTTPS it sends its MD5: either way the server
    refuses bytes that are not the ones read here.
    """

    def __init__(self, settings: Settings) -> None:
        endpoint = urlsplit(settings.store_endpoint)
        http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=5, read=60),
            maxsize=max(16, settings.upload_concurrency),
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(settings.store_ca_file) if settings.store_ca_file else None,
        )
        self._bucket = settings.store_bucket
        self._region = settings.store_region
        self._client = Minio(
            endpoint.netloc,
            access_key=settings.store_access_key.get_secret_value(),
            secret_key=settings.store_secret_key.get_secret_value(),
            secure=endpoint.scheme == "https",
            region=settings.store_region,
            http_client=http,
        )

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        with _Translating():
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket, self._region)

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        """Store `size` bytes in one request, or in parts when larger than 64 MiB."""
        with _Translating():
            part_size = MULTIPART_BYTES if size > MULTIPART_BYTES else 0
            self._client.put_object(
                self._bucket, key, content, size, content_type="application/dicom", part_size=part_size
            )

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """Return part of an object by a ranged GET."""
        with _Translating():
            response = self._client.get_object(self._bucket, key, offset=offset, length=length)
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

    def download(self, key: str, path: Path) -> None:
        """Write the whole object to a file, 1 MiB at a time."""
        with _Translating():
            response = self._client.get_object(self._bucket, key)
            try:
                with path.open("wb") as file:
                    for chunk in response.stream(1024 * 1024):
                        file.write(chunk)
            finally:
                response.close()
                response.release_conn()

    def size(self, key: str) -> int:
        """Return the object's size in bytes."""
        with _Translating():
            return int(self._client.stat_object(self._bucket, key).size or 0)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys with a prefix."""
        with _Translating():
            for entry in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
                yield str(entry.object_name)

    def check(self) -> None:
        """Raise unless the bucket can be reached."""
        with _Translating():
            if not self._client.bucket_exists(self._bucket):
                raise StoreUnavailable(
                    f"the bucket {self._bucket!r} does not exist; create it or set BUCKY_STORE_BUCKET"
                )


class _Translating:
    """Turn the client's exceptions into Bucky's."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, S3Error):
            if error.code in _MISSING:
                raise NotFound(f"the object store has no {error.object_name or error.bucket_name}") from error
            if error.code in _MISCONFIGURED:
                raise StoreUnavailable(
                    f"the object store refused: {error.code}; check BUCKY_STORE_BUCKET and the keys"
                ) from error
            raise StoreUnavailable(f"the object store answered {error.code}") from error
        if isinstance(error, ServerError | InvalidResponseError):
            raise StoreUnavailable(f"the object store answered {type(error).__name__}") from error
        if isinstance(error, urllib3.exceptions.HTTPError):
            raise StoreUnavailable(f"the object store cannot be reached: {type(error).__name__}") from error


class MemoryObjectStore:
    """The shipped fake: a dictionary that passes the same contract suite."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def ensure_bucket(self) -> None:
        """Do nothing: there is always room."""

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        """Keep `size` bytes."""
        data = content.read(size)
        if len(data) != size:
            raise StoreUnavailable("fewer bytes were given than promised")
        self._objects[key] = data

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

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys with a prefix, in order."""
        return iter(sorted(key for key in self._objects if key.startswith(prefix)))

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
