"""Destinations as validated data: one model for each `type`.

Nothing secret stands in one: a field that ends in `_secret` names a secret (`bucky.forwarding.secrets`).
`docs/reference/destinations.md` describes every field.
"""

import string
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from bucky.routing.delivery_hours import Paced
from bucky.text.names import NAME_PATTERN

AET_PATTERN = r"^[^\\\x00-\x1f\x7f-\uffff]{1,16}$"
# Bucky's own secrets have other names: who edits the routing cannot have them sent anywhere.
SECRET_PATTERN = r"^destination-[a-z0-9][a-z0-9-]{0,49}$"  # noqa: S105 - it is how names of secrets look
TEMPLATE_FIELDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "SHA256")
_THIS_MACHINE = frozenset({"127.0.0.1", "::1", "localhost"})


def _valid_template(template: str) -> str:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"not a valid template: {error}") from None
    fields = [field for _text, field, _format, _conversion in parts if field is not None]
    if any(form or conversion for _text, _field, form, conversion in parts) or set(fields) - set(TEMPLATE_FIELDS):
        raise ValueError("a template may use " + ", ".join(f"{{{field}}}" for field in TEMPLATE_FIELDS))
    if not {"SOPInstanceUID", "SHA256"} & set(fields):
        raise ValueError("a template must use {SOPInstanceUID} or {SHA256}: instances would overwrite each other")
    if any(piece in {"", ".", ".."} for piece in template.split("/")) or not template.isprintable():
        raise ValueError("a template is a relative path without empty parts, `.` or `..`")
    return template


def _valid_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("not an http or https URL")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the URL holds more than an address and a path; secrets are referenced by name")
    return url.rstrip("/")


SecretName = Annotated[str, Field(pattern=SECRET_PATTERN)]
Template = Annotated[str, Field(max_length=500), AfterValidator(_valid_template)]
WebUrl = Annotated[str, Field(max_length=1000), AfterValidator(_valid_url)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Existing = Literal["refuse", "replace"]
GIVE_UP_AFTER_HOURS = 7 * 24.0
BY_UIDS = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Named(_Model):
    name: str = Field(pattern=NAME_PATTERN)
    enabled: bool = True


class _Destination(Paced, _Named):
    # Below the age at which the stream of deliveries drops what it holds (`bucky.broker.streams`).
    give_up_after_hours: float = Field(default=GIVE_UP_AFTER_HOURS, gt=0, le=13 * 24)

    @property
    def address(self) -> str:
        """Say in one short text where it is."""
        raise NotImplementedError


class Commitment(_Model):
    """How a DICOM node is asked to commit to keeping what it took (PS3.4 Annex J), and how long its answer may take.

    An instance it does not commit to is sent again, `sends` times in all. `linger_seconds` is for how long the
    association that asks stays open for an answer on it.
    """

    answer_within_seconds: float = Field(default=3600.0, gt=0, le=7 * 86400)
    asks: int = Field(default=3, ge=1, le=20)
    sends: int = Field(default=3, ge=1, le=20)
    resend_after_seconds: float = Field(default=60.0, ge=0, le=86400)
    linger_seconds: float = Field(default=2.0, ge=0, le=60)
    report_from: tuple[IPv4Network | IPv6Network, ...] = ()


class DimseDestination(_Destination):
    """A DICOM node that takes C-STORE (PS3.4 Annex B)."""

    type: Literal["dimse"]
    aet: str = Field(pattern=AET_PATTERN)
    host: str = Field(min_length=1, max_length=253)
    port: int = Field(ge=1, le=65535)
    calling_aet: str = Field(default="BUCKY", pattern=AET_PATTERN)
    max_associations: int = Field(default=2, ge=1, le=32)
    timeout_seconds: Seconds = 30.0
    tls_ca_file: Path | None = None
    tls_identity_secret: SecretName | None = None
    transcode: Literal["when-refused", "never"] = "when-refused"
    commitment: Commitment | None = None

    @model_validator(mode="after")
    def _identity_over_tls(self) -> Self:
        if self.tls_identity_secret and not self.tls_ca_file:
            raise ValueError("tls_identity_secret needs tls_ca_file, which turns TLS on")
        return self

    @property
    def address(self) -> str:
        """Return `AET@host:port`."""
        return f"{self.aet}@{self.host}:{self.port}"


class FolderDestination(_Destination):
    """A mounted directory; each instance becomes a DICOM file in it (PS3.10)."""

    type: Literal["folder"]
    folder: Path
    path: Template = BY_UIDS
    mounted: bool = False
    existing: Existing = "refuse"

    @model_validator(mode="after")
    def _absolute(self) -> Self:
        if not self.folder.is_absolute() or ".." in self.folder.parts:
            raise ValueError("folder is an absolute path")
        return self

    @property
    def address(self) -> str:
        """Return the folder."""
        return str(self.folder)


class ObjectLock(_Model):
    """How long an object cannot be deleted or replaced."""

    mode: Literal["GOVERNANCE", "COMPLIANCE"]
    days: int = Field(ge=1, le=36500)


class S3Destination(_Destination):
    """An S3 bucket; each instance becomes an object that is a DICOM file (PS3.10)."""

    type: Literal["s3"]
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    key: Template = BY_UIDS
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]{1,40}$")
    endpoint: WebUrl | None = None
    access_key_id_secret: SecretName | None = None
    secret_access_key_secret: SecretName | None = None
    tls_ca_file: Path | None = None
    storage_class: str | None = Field(default=None, pattern=r"^[A-Z][A-Z0-9_]{0,39}$")
    encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9:/_-]{1,2048}$")
    object_lock: ObjectLock | None = None
    legal_hold: bool = False
    existing: Existing = "refuse"
    max_connections: int = Field(default=4, ge=1, le=64)
    timeout_seconds: Seconds = 30.0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.access_key_id_secret is None) != (self.secret_access_key_secret is None):
            raise ValueError("access_key_id_secret and secret_access_key_secret come together, or neither")
        if self.kms_key_id and self.encryption not in {"aws:kms", "aws:kms:dsse"}:
            raise ValueError("kms_key_id needs encryption aws:kms or aws:kms:dsse")
        return self

    @property
    def address(self) -> str:
        """Return the bucket, and its server unless that is AWS."""
        return f"s3://{self.bucket}" + (f" at {self.endpoint}" if self.endpoint else "")


class HttpBasicAuth(_Model):
    """A user name and password (RFC 7617)."""

    type: Literal["basic"]
    username: str = Field(pattern=r"^[^:\x00-\x1f]{1,200}$")
    password_secret: SecretName


class BearerAuth(_Model):
    """A token (RFC 6750)."""

    type: Literal["bearer"]
    token_secret: SecretName


class StowDestination(_Destination):
    """A DICOMweb server that takes STOW-RS (PS3.18 §10.5)."""

    type: Literal["stow"]
    url: WebUrl
    auth: Annotated[HttpBasicAuth | BearerAuth, Field(discriminator="type")] | None = None
    tls_ca_file: Path | None = None
    tls_identity_secret: SecretName | None = None
    instances_per_request: int = Field(default=20, ge=1, le=500)
    max_connections: int = Field(default=2, ge=1, le=32)
    timeout_seconds: Seconds = 30.0

    @model_validator(mode="after")
    def _secret_on_the_way(self) -> Self:
        url = urlsplit(self.url)
        if self.auth and url.scheme != "https" and url.hostname not in _THIS_MACHINE:
            raise ValueError("auth needs an https URL: over http anybody on the way can read the secret")
        return self

    @property
    def address(self) -> str:
        """Return the service's root."""
        return self.url


Destination = Annotated[
    DimseDestination | FolderDestination | S3Destination | StowDestination, Field(discriminator="type")
]


def commitment_of(destination: object) -> Commitment | None:
    """Return how a destination, of any kind, is asked for its commitment; None when it is not."""
    return destination.commitment if isinstance(destination, DimseDestination) else None
