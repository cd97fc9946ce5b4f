"""Whom to call, and as whom."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bucky.errors import Permanent

_ADDRESS = re.compile(r"(?P<aet>(?! *@)[ -?A-[\]-~]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^@:\s]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Peer:
    """A storage SCP; `timeout` is in seconds, for connecting and for each answer.

    With `tls_ca_file` the association runs over TLS and the peer's certificate must be for `host`;
    `tls_identity_file` holds our own certificate chain and private key (PEM), for a peer that asks.
    """

    aet: str
    host: str
    port: int
    calling_aet: str = "BUCKY"
    timeout: float = 30.0
    tls_ca_file: Path | None = None
    tls_identity_file: Path | None = None

    @classmethod
    def parse(cls, address: str, *, calling_aet: str = "BUCKY", timeout: float = 30.0) -> Self:
        """Read `AET@host:port` (an IPv6 address in brackets); raise `Permanent` saying what is wrong."""
        match = _ADDRESS.fullmatch(address.strip())
        if match is None or not 0 < int(match["port"]) < 65536:
            raise Permanent(f"{address!r} is not a DICOM address; write AET@host:port, as in BUCKY@localhost:11112")
        return cls(match["aet"], match["host"].strip("[]"), int(match["port"]), calling_aet, timeout)

    def __str__(self) -> str:
        return f"{self.aet}@{self.host}:{self.port}"
