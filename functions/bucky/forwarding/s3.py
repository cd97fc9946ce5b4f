"""Sending to an S3 bucket with boto3: objects whose SHA-256 the server has verified and named.

A key is written only where there is none (`If-None-Match`), so sending again changes nothing.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

from bucky.cloudevents import utc_now
from bucky.dicom.part10 import sha256_of
from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult, not_sent
from bucky.errors import AnswerLost, DestinationUnavailable, Permanent, Retriable
from bucky.forwarding.in_units import Unit, in_units
from bucky.forwarding.part10_file import Part10File, is_corrected_by, place
from bucky.forwarding.secrets import Secrets
from bucky.routing.destinations import S3Destination
from bucky.runtime.tls import ANSWER_FACTOR, MISCONFIGURED_RETRY_SECONDS

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 16 * 1024 * 1024
"""What is larger goes in parts. Each upload holds one part in memory; 10,000 of them are the protocol's limit."""
VERIFIED = "its SHA-256 verified"
_TAKEN = "PreconditionFailed"
_UNDER_WAY = "ConditionalRequestConflict"
_TOO_MUCH = frozenset({"EntityTooLarge", "KeyTooLongError"})
_WORDS = {
    "EndpointConnectionError": "cannot be reached",
    "ConnectTimeoutError": "cannot be reached: no answer in time",
    "ReadTimeoutError": "did not answer in time",
    "ConnectionClosedError": "closed the connection without an answer",
    "SSLError": "and we could not agree on TLS; see tls_ca_file",
    "NoCredentialsError": "needs credentials: name their secrets, or give this function a role",
}


class S3Sender:
    """Puts objects through one client."""

    def __init__(self, destination: S3Destination, secrets: Secrets) -> None:
        self._destination = destination
        self._client = _client(destination, secrets)

    def send(self, items: Sequence[Outgoing], *, seconds: float) -> list[StoreResult]:
        """Put every item."""

        def put(unit: Unit) -> dict[int, StoreResult]:
            return {index: self._sent(items[index]) for index in unit}

        try:
            with self._translating():
                # Some servers make a bucket for any name an object is put under.
                self._client.head_bucket(Bucket=self._destination.bucket)
        except DestinationUnavailable as error:
            return [not_sent(error)] * len(items)
        units = [(index,) for index in range(len(items))]
        return in_units(units, put, at_once=self._destination.max_connections, seconds=seconds)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _sent(self, item: Outgoing) -> StoreResult:
        try:
            key = place(self._destination.key, item)
            file = Part10File.of(item)
        except (Permanent, Retriable) as error:
            return not_sent(error)
        with file:
            try:
                with self._translating():
                    return self._stored(item, key, file)
            except Permanent as error:
                return not_sent(error)

    def _stored(self, item: Outgoing, key: str, file: Part10File) -> StoreResult:
        try:
            self._put(key, file, {"IfNoneMatch": "*"})
        except ClientError as error:
            if _code(error) == _UNDER_WAY:
                return StoreResult(Outcome.UNAVAILABLE, "that key is being written just now", answer=_UNDER_WAY)
            if _code(error) != _TAKEN:
                raise
            there = self._there(key, file)
            if there.outcome is not Outcome.REFUSED:
                return there
            if self._destination.existing == "refuse" and (there.exists or not self._is_corrected(item, key)):
                return there
            self._put(key, file, {})
        return StoreResult(Outcome.STORED, answer=VERIFIED)

    def _there(self, key: str, file: Part10File) -> StoreResult:
        """Return what it means that an object is there already: it is asked for."""
        try:
            if self._holds(key, file):
                return StoreResult(Outcome.STORED, answer=f"already there, {VERIFIED}")
        except ClientError as error:
            if _status(error) == 404:
                gone = "an object was there by that key, and is gone"
                return StoreResult(Outcome.UNAVAILABLE, gone, answer=_TAKEN)
            if _status(error) != 403:
                raise
            unread = "an object is there by that key, which our credentials may not read to compare"
            return StoreResult(Outcome.REFUSED, unread, answer=_TAKEN, exists=True)
        other = "another object is there by that key, and is not overwritten"
        return StoreResult(Outcome.REFUSED, other, answer=_TAKEN)

    def _put(self, key: str, file: Part10File, condition: dict[str, Any]) -> None:
        """Put an object; return when the server named the checksum of our bytes, or gave them back."""
        target: Any = {"Bucket": self._destination.bucket, "Key": key}
        file.seek(0)
        if file.size <= PART_BYTES:
            content = file.read()
            ours = _base64(hashlib.sha256(content).digest())
            with self._answer_awaited():
                answer: Any = self._client.put_object(
                    **target, **condition, **self._properties(), Body=content, ChecksumSHA256=ours
                )
        else:
            ours, answer = self._put_in_parts(target, file, condition)
        theirs = answer.get("ChecksumSHA256")
        if theirs != ours and (theirs is not None or not self._holds(key, file)):
            raise DestinationUnavailable(f"{self._destination.address} holds other bytes than it was sent")

    def _put_in_parts(self, target: Any, file: Part10File, condition: Any) -> tuple[str, Any]:
        """Put an object in parts; return the checksum of their checksums, and the answer."""
        created = self._client.create_multipart_upload(**target, **self._properties(), ChecksumAlgorithm="SHA256")
        upload = {**target, "UploadId": created["UploadId"]}
        try:
            parts: list[Any] = []
            for number, content in enumerate(_parts(file), 1):
                checksum = _base64(hashlib.sha256(content).digest())
                answer = self._client.upload_part(**upload, PartNumber=number, Body=content, ChecksumSHA256=checksum)
                parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum})
            with self._answer_awaited():
                done = self._client.complete_multipart_upload(**upload, **condition, MultipartUpload={"Parts": parts})
        except BaseException:
            self._abandon(upload)
            raise
        return _checksum_of_parts([base64.b64decode(part["ChecksumSHA256"]) for part in parts]), done

    @contextmanager
    def _answer_awaited(self) -> Iterator[None]:
        """Say so when what makes the object was sent whole and had no answer."""
        try:
            yield
        except ReadTimeoutError as error:
            raise AnswerLost(f"{self._destination.address} did not answer in time") from error

    def _abandon(self, upload: Any) -> None:
        """Have the server forget the parts; where it cannot be told, its own lifecycle rules must."""
        try:
            self._client.abort_multipart_upload(**upload)
        except (ClientError, BotoCoreError):
            return

    def _holds(self, key: str, file: Part10File) -> bool:
        """Tell whether the object is this file: by its checksum, or where there is none by its bytes."""
        target: Any = {"Bucket": self._destination.bucket, "Key": key}
        head = self._client.head_object(**target, ChecksumMode="ENABLED")
        if head["ContentLength"] != file.size:
            return False
        theirs = head.get("ChecksumSHA256", "")
        ours = _checksum(file)
        if theirs and "-" not in theirs:
            return theirs == ours
        file.seek(0)
        if theirs and theirs == _checksum_of_parts([hashlib.sha256(part).digest() for part in _parts(file)]):
            return True
        body = self._client.get_object(**target)["Body"]
        with body:
            return _base64(sha256_of(body)) == ours

    def _is_corrected(self, item: Outgoing, key: str) -> bool:
        """Tell whether the object is one that this instance corrects; nothing is read where it corrects none."""
        if not item.corrects:
            return False
        body = self._client.get_object(Bucket=self._destination.bucket, Key=key)["Body"]
        with body:
            return is_corrected_by(item, body)

    def _properties(self) -> dict[str, Any]:
        """Return what every object is made with."""
        destination = self._destination
        wanted: dict[str, Any] = {
            "ContentType": "application/dicom",
            "StorageClass": destination.storage_class,
            "ServerSideEncryption": destination.encryption,
            "SSEKMSKeyId": destination.kms_key_id,
            "ObjectLockLegalHoldStatus": "ON" if destination.legal_hold else None,
        }
        if destination.object_lock is not None:
            wanted["ObjectLockMode"] = destination.object_lock.mode
            wanted["ObjectLockRetainUntilDate"] = utc_now() + timedelta(days=destination.object_lock.days)
        return {name: value for name, value in wanted.items() if value is not None}

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Turn the client's exceptions into Bucky's: most are for an administrator to put right."""
        where = self._destination.address
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _TOO_MUCH:
                raise Permanent(f"{where} refused the object: {code}") from error
            retry = None if _status(error) >= 500 else MISCONFIGURED_RETRY_SECONDS
            raise DestinationUnavailable(f"{where} answered {code}{_hint(code)}", retry) from error
        except OSError as error:
            raise DestinationUnavailable("the data set could not be read to its end") from error
        except BotoCoreError as error:
            name = type(error).__name__
            raise DestinationUnavailable(f"{where} {_WORDS.get(name, f'could not be asked: {name}')}") from error


def _client(destination: S3Destination, secrets: Secrets) -> "S3Client":
    if destination.tls_ca_file is not None and not destination.tls_ca_file.is_file():
        raise DestinationUnavailable(
            f"the file of its certificate authority, {destination.tls_ca_file}, is not there",
            MISCONFIGURED_RETRY_SECONDS,
        )
    keys: dict[str, Any] = {}
    if destination.access_key_id_secret and destination.secret_access_key_secret:
        keys = {
            "aws_access_key_id": secrets.text(destination.access_key_id_secret),
            "aws_secret_access_key": secrets.text(destination.secret_access_key_secret),
        }
    return Session().client(
        "s3",
        region_name=destination.region,
        endpoint_url=destination.endpoint,
        verify=str(destination.tls_ca_file) if destination.tls_ca_file else None,
        config=Config(
            connect_timeout=destination.timeout_seconds,
            read_timeout=destination.timeout_seconds * ANSWER_FACTOR,
            max_pool_connections=destination.max_connections,
            # Who tries again, and when, is the connector's business.
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path" if destination.endpoint else "auto"},
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # its stubs are older
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
        **keys,
    )


def _parts(file: Part10File) -> Iterator[bytes]:
    while True:
        part = bytearray()
        while len(part) < PART_BYTES and (piece := file.read(PART_BYTES - len(part))):
            part += piece
        if not part:
            return
        yield bytes(part)


def _checksum(file: Part10File) -> str:
    file.seek(0)
    return _base64(sha256_of(file))


def _checksum_of_parts(digests: Sequence[bytes]) -> str:
    """Return what S3 calls a composite checksum: of the parts' digests, and their number."""
    return f"{_base64(hashlib.sha256(b''.join(digests)).digest())}-{len(digests)}"


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code") or "an error")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _hint(code: str) -> str:
    if code in {"404", "NoSuchBucket"}:
        return ": there is no such bucket; make it, or correct `bucket`"
    if code in {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}:
        return ": check the secrets and what they allow"
    return ""
