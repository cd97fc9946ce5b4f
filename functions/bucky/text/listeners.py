"""What `BUCKY_EDGE_LISTENERS` says: one AE title and port each, and who may call."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bucky.text.allow_entry import Network

LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


class ListenerTls(BaseModel):
    """TLS on a listener (PS3.15 Annex B); with `client_ca_file`, callers must present a certificate."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


class Listener(BaseModel):
    """One DICOM port: who it is, and who may call it. `*` allows any calling AE title."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    aet: str = Field(default="BUCKY", pattern=r"^[^\\\x00-\x1f]{1,16}$")
    host: str = "127.0.0.1"
    port: int = Field(default=11112, ge=0, le=65535)
    allow_aets: tuple[str, ...] = ("*",)
    allow_networks: tuple[Network, ...] = LOOPBACK
    tls: ListenerTls | None = None
    name: str = Field(default="", max_length=64)

    @property
    def label(self) -> str:
        """Return what rules and events call it: its name, or its AE title and port."""
        return self.name or f"{self.aet}:{self.port}"
