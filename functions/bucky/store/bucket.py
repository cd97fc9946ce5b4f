"""The bucket itself, through the `minio` client: made, checked, and proven to verify checksums."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.error import InvalidResponseError, S3Error, ServerError
from minio.signer import sign_v4_s3
from minio.time import to_amz_date, utcnow

from bucky.errors import BuckyError, NotFound, StoreUnavailable
from bucky.settings import Settings

# Where the proof is tried; a server that verifies never keeps it.
PROOF_KEY = "bucky-checksum-proof"
_WRONG = {"crc64nvme": "AAAAAAAAAAA=", "sha256": "A" * 43 + "="}
CHECK_SECONDS = 5.0
WORK_SECONDS = 20.0
_MISSING = {"NoSuchKey", "NoSuchObject"}
# Somebody must put these right, but they are not the instance's fault: it waits, and is not given up.
_MISCONFIGURED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidBucketName", "NoSuchBucket"}


class Bucket:
    """One bucket; every method blocks and raises `StoreUnavailable` when trying again can help."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = settings.store_bucket
        self._keys = settings.store_access_key.get_secret_value(), settings.store_secret_key.get_secret_value()
        self._http = self._pool(WORK_SECONDS)
        self._client = self._minio(self._http)
        # Whether it is there is to be known soon.
        self._asked = self._minio(self._pool(CHECK_SECONDS))

    def _pool(self, read_seconds: float) -> urllib3.PoolManager:
        ca_file = self._settings.store_ca_file
        return urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CHECK_SECONDS, read=read_seconds),
            maxsize=4,
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(ca_file) if ca_file else None,
        )

    def _minio(self, pool: urllib3.PoolManager) -> Minio:
        endpoint = urlsplit(self._settings.store_endpoint)
        return Minio(
            endpoint.netloc,
            *self._keys,
            secure=endpoint.scheme == "https",
            region=self._settings.store_region,
            http_client=pool,
        )

    def ensure(self) -> None:
        """Create the bucket unless it is there."""
        with _translating():
            if not self._asked.bucket_exists(self._name):
                self._client.make_bucket(self._name, self._settings.store_region)

    def check(self) -> None:
        """Raise unless the bucket can be reached."""
        try:
            with _translating():
                there = self._asked.bucket_exists(self._name)
        except StoreUnavailable:
            # Those that are kept may be half open, and each would have to be waited for.
            self._http.clear()
            raise
        if not there:
            raise StoreUnavailable(f"the bucket {self._name!r} does not exist; create it or set BUCKY_STORE_BUCKET")

    def prove_checksums(self) -> None:
        """Raise unless the server refuses bytes whose checksum is wrong.

        Not every server does what its answer to the right bytes suggests: some keep bytes that do not even
        match their signature.
        """
        if not all(self._keys):
            raise StoreUnavailable("there are no keys: set BUCKY_STORE_ACCESS_KEY and BUCKY_STORE_SECRET_KEY")
        algorithm = self._settings.store_checksum
        with _translating():
            answer = self._put_wrongly({f"x-amz-checksum-{algorithm}": _WRONG[algorithm]})
            if answer.status == 200:
                self._client.remove_object(self._name, PROOF_KEY)
                raise StoreUnavailable(
                    f"the object store kept bytes that do not match their {algorithm} checksum, so no upload to it"
                    " can be trusted; set BUCKY_STORE_CHECKSUM to another one"
                )
            if answer.status != 400:
                raise S3Error.fromxml(answer)

    def _put_wrongly(self, checksum: dict[str, str]) -> urllib3.BaseHTTPResponse:
        url = urlsplit(f"{self._settings.store_endpoint.rstrip('/')}/{self._name}/{PROOF_KEY}")
        date = utcnow()
        headers = {
            "Host": url.netloc,
            "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
            "x-amz-date": to_amz_date(date),
            **checksum,
        }
        signed = sign_v4_s3(
            method="PUT",
            url=url,
            region=self._settings.store_region,
            headers=dict(headers),
            credentials=Credentials(*self._keys),
            content_sha256="UNSIGNED-PAYLOAD",
            date=date,
        )
        return self._http.request(
            "PUT", url.geturl(), body=b"not these bytes", headers={k: str(v) for k, v in signed.items()}
        )


def failure(code: str, key: str = "") -> BuckyError:
    """Return the error that an S3 error code stands for."""
    if code in _MISSING:
        return NotFound(f"the object store has no {key}")
    if code in _MISCONFIGURED:
        return StoreUnavailable(f"the object store refused: {code}; check BUCKY_STORE_BUCKET and the keys")
    return StoreUnavailable(f"the object store answered {code}")


@contextmanager
def _translating() -> Iterator[None]:
    """Turn the client's exceptions into Bucky's."""
    try:
        yield
    except S3Error as error:
        raise failure(error.code or "an error", error.object_name or error.bucket_name or "") from error
    except (ServerError, InvalidResponseError) as error:
        raise StoreUnavailable(f"the object store answered {type(error).__name__}") from error
    except urllib3.exceptions.HTTPError as error:
        raise StoreUnavailable(f"the object store cannot be reached: {type(error).__name__}") from error
