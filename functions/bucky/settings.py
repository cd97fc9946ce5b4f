"""Every setting of every process, in one typed model read once from a mapping.

A field `store_bucket` is the variable `BUCKY_STORE_BUCKET`. Structured values are JSON. A secret may
also stand in the file `$BUCKY_SECRETS_DIR/store-secret-key`, as OpenFaaS and Kubernetes mount it; the
variable wins. `docs/reference/settings.md` is made from this file (`bucky settings --markdown`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from bucky.errors import SettingsError
from bucky.text.allow_entry import valid_allow_entry
from bucky.text.documents import InvalidDocument, read_json
from bucky.text.listeners import Listener

PREFIX = "BUCKY_"
HOME_NAME = "{home}"


class Settings(BaseModel):
    """Bucky's settings; the description of each field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(Path(".bucky"), description="Folder of the embedded stack (`bucky up`).")
    secrets_dir: Path = Field(Path("/var/openfaas/secrets"), description="Folder with one file per secret.")
    destination_secrets_dir: Path | None = Field(
        None,
        description="Folder with one file per secret that destinations name; by default `BUCKY_SECRETS_DIR`.",
    )
    destination_allow: tuple[Annotated[str, AfterValidator(valid_allow_entry)], ...] = Field(
        (),
        description="Where destinations may be, a JSON list of networks (`10.0.0.0/8`), hosts (`pacs.example.org:104`, "
        "`*.example.org`; without a port, any) and folders (`/mnt/images`); empty is anywhere. Always refused, unless "
        "an entry names just that host and port, or that folder: Bucky's own ports and folders, and the addresses at "
        "which clouds tell machines their secrets.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")

    store_endpoint: str = Field(
        "http://127.0.0.1:8333",
        description="URL of the S3 endpoint (MinIO, SeaweedFS, AWS S3, any other).",
    )
    store_region: str = Field("us-east-1", description="S3 region.")
    store_bucket: str = Field("bucky", description="Bucket that keeps the instances.")
    store_access_key: SecretStr = Field(SecretStr(""), description="S3 access key.")
    store_secret_key: SecretStr = Field(SecretStr(""), description="S3 secret key.")
    store_ca_file: Path | None = Field(None, description="CA certificate of the S3 endpoint, if private.")
    store_checksum: Literal["crc64nvme", "sha256"] = Field(
        "crc64nvme", description="Checksum the store verifies each upload by; tried out before the first upload."
    )
    store_answer_seconds: float = Field(
        120.0,
        gt=0,
        description="How long a request to the store, of 5 MiB at most, may take to its answer; then it is tried again "
        "on another connection. On a slow line to the store it must be long enough for that.",
    )
    store_files_dir: Path | None = Field(
        None,
        description=(
            "Folder in which the store keeps each bucket as a folder and each object as a file, where it is such a "
            "gateway on this machine: functions read there first, and `BUCKY_LOCAL_CACHE_DIR` is not used."
        ),
    )
    store_barrier: Literal["none", "syncfs", "delay"] = Field(
        "delay",
        description=(
            "When an upload counts as durable: `none` (the store's 200 is durable, as on AWS S3), `syncfs` "
            "(sync the file system of `BUCKY_STORE_BARRIER_PATH`), `delay` (wait "
            "`BUCKY_STORE_BARRIER_SECONDS`). Until then the spool keeps its copy."
        ),
    )
    store_barrier_path: Path | None = Field(None, description="A path on the store's file system.")
    store_barrier_seconds: float = Field(60.0, ge=0, description="Seconds an upload is kept in the spool.")

    nats_url: str = Field("nats://127.0.0.1:4222", description="URL of the NATS server.")
    nats_user: str = Field("bucky", description="NATS user.")
    nats_password: SecretStr = Field(SecretStr(""), description="NATS password.")
    nats_ca_file: Path | None = Field(None, description="CA certificate of the NATS server, if it uses TLS.")
    nats_monitor_url: str = Field(
        "",
        description="URL of nats-server's monitoring page, such as `http://127.0.0.1:8222`, which alone says that a "
        "stream refuses writes since its disk was full; empty where there is none.",
    )
    nats_replicas: int = Field(1, ge=1, le=5, description="Replicas of each stream (3 in a cluster).")

    index_url: SecretStr = Field(
        SecretStr("sqlite:///.bucky/index.db"),
        description="SQLAlchemy URL of the index: `sqlite:///PATH` or `postgresql+psycopg://…`. `{home}` in it is "
        "`BUCKY_HOME`.",
    )

    crosswalk_dir: Path = Field(
        Path(".bucky/crosswalks"), description="Folder of the files that the routing's crosswalks name."
    )

    edge_listeners: tuple[Listener, ...] = Field(
        (Listener(),),
        description=(
            "DICOM listeners, a JSON list of `{name, aet, host, port, allow_aets, allow_networks, tls: {cert_file, "
            "key_file, client_ca_file}}`. Callers outside `allow_networks` (default: loopback) are refused."
        ),
    )
    edge_http_port: int = Field(8104, ge=0, le=65535, description="Port of the edge's health and metrics page.")
    edge_private_transfer_syntaxes: tuple[str, ...] = Field(
        (), description="Further transfer syntax UIDs to accept, a JSON list."
    )
    edge_private_sop_classes: tuple[str, ...] = Field(
        (), description="Further storage SOP Class UIDs to accept, such as a vendor's own, a JSON list."
    )
    edge_max_pdu: int = Field(131072, ge=4096, description="Maximum PDU length advertised, in bytes.")
    edge_max_associations: int = Field(
        100,
        ge=1,
        description=(
            "Associations served at once, per listener; a quarter more, and at least 4, for addresses that stored "
            "here since the edge started and have fewer than 4. Connections that are silent before their association "
            "give way to others."
        ),
    )
    edge_max_associations_per_peer: int = Field(
        80, ge=1, description="Associations served at once from one address, so that one peer leaves room for others."
    )
    edge_processes: int = Field(
        0, ge=0, le=32, description="Processes that receive; 0 is one for each core, up to four."
    )
    edge_fast_path: bool = Field(
        True,
        description=(
            "Serve the usual C-STORE on connections without TLS in native code, where that was built: several "
            "times as fast, and otherwise the same."
        ),
    )
    edge_idle_seconds: float = Field(60.0, gt=0, description="Idle time after which an association is aborted.")
    edge_artim_seconds: float = Field(
        15.0,
        gt=0,
        description="ARTIM: seconds to send a whole association request, and to close when an association has ended.",
    )
    edge_min_bytes_per_second: int = Field(
        1024, ge=0, description="Average below which a sender of a data set is aborted, over the idle time."
    )

    spool_dir: Path = Field(Path(".bucky/spool"), description="Folder of the edge's durable spool.")
    spool_max_bytes: int = Field(
        20 * 1024**3, gt=0, description="Spool size past which the edge answers 0xA700, in bytes."
    )
    spool_resume_fraction: float = Field(
        0.9, gt=0, le=1, description="Once past `BUCKY_SPOOL_MAX_BYTES`, accept again below this fraction of it."
    )
    spool_min_free_bytes: int = Field(
        1024**3, ge=0, description="Free disk space below which the edge answers 0xA700, in bytes."
    )
    spool_slots: int = Field(
        4096,
        ge=0,
        le=65536,
        description=(
            "Places of 1 MiB that the spool keeps prepared on the disk, within `BUCKY_SPOOL_MAX_BYTES`: an instance "
            "that fits in one needs no new file. While all are in use, files are made."
        ),
    )
    local_cache_dir: Path | None = Field(
        None,
        description=(
            "Folder on the spool's file system where the edge leaves copies of what it uploaded last, for functions "
            "on the same machine to read instead of asking the object store; empty for none."
        ),
    )
    local_cache_max_bytes: int = Field(
        512 * 1024**2,
        ge=0,
        description="Most the copies in `BUCKY_LOCAL_CACHE_DIR` take, in bytes; the oldest go first.",
    )
    upload_concurrency: int = Field(8, ge=1, le=256, description="Uploads in flight at once.")

    gateway_url: str = Field("http://127.0.0.1:8101", description="URL of the OpenFaaS gateway or provider.")
    gateway_user: str = Field("admin", description="User for the gateway's `/system` API.")
    gateway_password: SecretStr = Field(SecretStr(""), description="Password for the gateway's `/system` API.")

    connector_http_host: str = Field("127.0.0.1", description="Address of the connector's health page.")
    connector_http_port: int = Field(8102, ge=0, le=65535, description="Port of the connector's health page.")
    connector_refresh_seconds: float = Field(2.0, gt=0, description="How often functions are discovered anew.")
    queue_normal_seconds: float = Field(
        600.0, gt=0, description="A queue whose oldest entry has waited for longer, and the spool alike, is not well."
    )
    connector_stack_file: Path | None = Field(
        None, description="Stack file to read functions from, instead of asking the gateway."
    )

    provider_port: int = Field(8101, ge=0, le=65535, description="Port of the local OpenFaaS provider.")
    provider_dir: Path = Field(Path(".bucky/provider"), description="Folder of the provider's state.")

    admin_port: int = Field(8103, ge=0, le=65535, description="Port of the admin API, on loopback.")
    api_key: SecretStr = Field(SecretStr(""), description="Key that opens the admin API and the functions.")
    public_url: str = Field("https://localhost:8443", description="Address users see, for links.")
    traefik_health_url: str = Field("", description="URL of Traefik's ping page, shown on the health page.")
    edge_health_url: str = Field(
        "http://127.0.0.1:8104/health", description="URL of the edge's health page; empty where there is none."
    )
    connector_health_url: str = Field("http://127.0.0.1:8102/health", description="URL of the connector's health page.")

    keeper_http_port: int = Field(8106, ge=0, le=65535, description="Port of the keeper's health page, on loopback.")
    keeper_health_url: str = Field("http://127.0.0.1:8106/health", description="URL of the keeper's health page.")
    study_quiet_seconds: float = Field(
        60.0, ge=1, description="A study or series that got nothing for this time is stable; rules may set another."
    )
    study_hold_seconds: float = Field(
        600.0,
        ge=0,
        description="How much longer a quiet study is held while instances may still be on their way to the index.",
    )
    reconcile_seconds: float = Field(
        3600.0, ge=0, description="How often bucket, index, streams and deliveries are compared; 0 is never."
    )
    reconcile_grace_seconds: float = Field(
        900.0, ge=0, description="What is younger is on its way, and not yet looked for by reconciling."
    )

    handler: str = Field("", description="Module that `bucky.serve` serves, such as `parse_instance.handler`.")
    serve_host: str = Field("127.0.0.1", description="Address `bucky.serve` listens on.")
    serve_port: int = Field(8082, ge=0, le=65535, description="Port `bucky.serve` listens on.")
    serve_max_body_bytes: int = Field(
        16 * 1024**2, gt=0, description="Largest request body `bucky.serve` reads, in bytes; above it answers 413."
    )
    serve_max_in_flight: int = Field(
        16, ge=1, description="Batches `bucky.serve` works on at once; above it answers 429."
    )

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from a mapping such as `os.environ`; raise `SettingsError` in one sentence."""
        values: dict[str, Any] = {}
        for name, value in environ.items():
            if not name.startswith(PREFIX):
                continue
            field = name.removeprefix(PREFIX).lower()
            if field not in cls.model_fields:
                raise SettingsError(f"{name} is not a setting; `bucky settings` lists those there are")
            if value == "" and cls.model_fields[field].default is None:
                # Said to be none, where the stack of `bucky up` would have one.
                continue
            values[field] = _decoded(name, value) if _is_structured(cls, field) else value
        secrets_dir = Path(values.get("secrets_dir", cls.model_fields["secrets_dir"].default))
        for field in cls.secret_fields():
            path = secrets_dir / secret_file_name(field)
            if field not in values and path.is_file():
                values[field] = path.read_text().strip()
        if "index_url" in values:
            values["index_url"] = in_home(values["index_url"], values.get("home", cls.model_fields["home"].default))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = PREFIX + str(first["loc"][0]).upper()
            raise SettingsError(f"{name}: {first['msg']}") from None

    @classmethod
    def secret_fields(cls) -> tuple[str, ...]:
        """Return the names of the fields that hold secrets."""
        return tuple(name for name, field in cls.model_fields.items() if field.annotation is SecretStr)


def in_home(value: str, home: str | Path) -> str:
    """Return a value with the home where it says `{home}`: nothing in a home names the place where it lies."""
    return value.replace(HOME_NAME, str(home))


def secret_file_name(field: str) -> str:
    """Return the file, and OpenFaaS secret, that holds a secret field."""
    return field.replace("_", "-")


def _is_structured(model: type[BaseModel], field: str) -> bool:
    return get_origin(model.model_fields[field].annotation) is tuple


def _decoded(name: str, value: str) -> Any:
    try:
        return read_json(value)
    except InvalidDocument as error:
        raise SettingsError(f"{name}: {error}") from None
