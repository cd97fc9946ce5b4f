"""Where the embedded stack keeps things: its home folder, its ports, its secrets."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from bucky.errors import BuckyError
from bucky.runtime.ports import free_port, is_free
from bucky.settings import HOME_NAME, in_home, secret_file_name

OWN_INDEX = f"sqlite:///{HOME_NAME}/index.db"


class CannotStart(BuckyError):
    """The stack cannot start; the message says what to do."""


@dataclass(frozen=True)
class Ports:
    """Every TCP port of the stack, all on loopback."""

    https: int = 8443
    http: int = 8080
    s3_https: int = 9443
    console_https: int = 9444
    traefik_ping: int = 8105
    provider: int = 8101
    connector: int = 8102
    admin: int = 8103
    edge_health: int = 8104
    keeper: int = 8106
    dicom: int = 11112
    destination: int = 11113
    nats: int = 4222
    nats_monitor: int = 8222
    s3: int = 8333
    s3_console: int = 23646
    seaweedfs_1: int = 9333
    seaweedfs_2: int = 19333
    seaweedfs_3: int = 9340
    seaweedfs_4: int = 19340
    seaweedfs_5: int = 8888
    seaweedfs_6: int = 18888
    seaweedfs_7: int = 18333
    seaweedfs_8: int = 23647

    @classmethod
    def free(cls) -> Self:
        """Choose ports nobody listens on just now."""
        return cls(*(free_port() for _ in fields(cls)))

    @property
    def seaweedfs(self) -> tuple[int, ...]:
        """The object store's internal ports."""
        return tuple(getattr(self, f"seaweedfs_{n}") for n in range(1, 9))

    def check_free(self) -> None:
        """Raise `CannotStart` with what to do when a port is taken."""
        for name, port in asdict(self).items():
            if not is_free(port):
                raise CannotStart(
                    f"port {port} ({name}) is in use by another program. See which with "
                    f"`ss -ltnp 'sport = :{port}'` and stop it, or run `bucky up --free-ports`. "
                    "An earlier Bucky in another folder is stopped there with `make down`."
                )


class Home:
    """The stack's folder; everything it writes is below it."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.secrets = self.path / "secrets"
        self.destination_secrets = self.path / "destination-secrets"
        self.logs = self.path / "logs"
        self.tls = self.path / "tls"
        self.spool = self.path / "spool"
        self.local_cache = self.path / "local-cache"
        # The object store's: SeaweedFS's volumes, or a folder for each bucket.
        self.volumes = self.path / "objects"
        self.buckets = self.path / "buckets"
        self.nats = self.path / "nats"
        self.provider = self.path / "provider"
        self.crosswalks = self.path / "crosswalks"
        self.index = self.path / "index.db"
        self.destination = self.path / "demo-destination"
        self.demo_files = self.path / "demo-files"
        self.record = self.path / "run" / "stack.json"
        self.lock = self.path / "run" / "lock"
        self.belongings = self.path / "belongings.json"

    def create(self) -> None:
        """Make the folders, closed to other users, and the secrets that are not there yet."""
        folders = (self.path, self.secrets, self.destination_secrets, self.logs, self.crosswalks, self.record.parent)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        generated = {
            "api_key": secrets.token_urlsafe(24),
            "gateway_password": secrets.token_urlsafe(24),
            # nats-server's configuration reads a value that begins with a digit as a number.
            "nats_password": "n" + secrets.token_hex(16),
            "store_access_key": "bucky" + secrets.token_hex(6),
            "store_secret_key": secrets.token_hex(20),
            "index_url": OWN_INDEX,
        }
        for field, value in generated.items():
            file = self.secrets / secret_file_name(field)
            if not file.exists():
                file.touch(mode=0o600)
                file.write_text(value)
        self._forget_where_it_lay()

    def _forget_where_it_lay(self) -> None:
        """Correct the index's URL as earlier versions wrote it, with the place where the home was made."""
        file = self.secrets / secret_file_name("index_url")
        scheme, _, path = file.read_text().strip().partition(":///")
        if scheme == "sqlite" and Path(path).name == self.index.name and self.index.exists():
            file.write_text(OWN_INDEX)

    def secret(self, field: str) -> str:
        """Return a secret by the name of its setting."""
        return (self.secrets / secret_file_name(field)).read_text().strip()

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Note what runs here, for `bucky down` and the tests; replaced atomically."""
        draft = self.record.with_suffix(".tmp")
        draft.write_text(json.dumps(record, indent=2).replace(self._as_json, HOME_NAME))
        draft.replace(self.record)

    def read_record(self) -> dict[str, Any] | None:
        """Return what was noted, or None when nothing was started here."""
        if not self.record.exists():
            return None
        record: dict[str, Any] = json.loads(in_home(self.record.read_text(), self._as_json))
        return record

    @property
    def _as_json(self) -> str:
        """The home's path as it stands inside a JSON string."""
        return json.dumps(str(self.path))[1:-1]
