"""An entry of `BUCKY_DESTINATION_ALLOW`: a network, a host or a folder, as an administrator writes it."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Self

Network = IPv4Network | IPv6Network

_WITH_PORT = re.compile(r"(?P<bracketed>\[[^\]]+\])(?::(?P<port>\d{1,5}))?|(?P<host>[^:\[\]]+)(?::(?P<other>\d{1,5}))?")
_BRACKETED = re.compile(r"^\[([^\]]+)\](/\d+)?$")
_HOST = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9._*-]{0,251}[A-Za-z0-9*])?")


@dataclass(frozen=True)
class AllowEntry:
    """Where destinations may be; without a port, on any."""

    folder: Path | None = None
    network: Network | None = None
    pattern: str = ""
    port: int | None = None

    @classmethod
    def of(cls, text: str) -> Self:
        """Read `10.0.0.0/8`, `pacs.example.org:104`, `*.example.org`, `[2001:db8::]/32` or `/mnt/images`.

        Raises `ValueError`.
        """
        if text.startswith("/"):
            return cls(folder=Path(text))
        if (network := _network(text)) is not None:
            return cls(network=network)
        found = _WITH_PORT.fullmatch(text)
        host = (found["bracketed"] or found["host"]).strip("[]") if found else ""
        port = int(found["port"] or found["other"] or 0) if found else 0
        if port <= 65535:
            if (network := _network(host)) is not None:
                return cls(network=network, port=port or None)
            if _HOST.fullmatch(name := _as_asked(host)):
                return cls(pattern=name, port=port or None)
        raise ValueError(f"{text!r} is no network, host or absolute folder")

    def holds(self, folder: Path) -> bool:
        """Return whether a folder is this one or in it."""
        return self.folder is not None and folder.is_relative_to(self.folder.resolve())

    def names(self, host: str, port: int) -> bool:
        """Return whether it is about a host by its name."""
        return bool(self.pattern) and fnmatchcase(_as_asked(host), self.pattern) and self.port in {None, port}

    def covers(self, address: IPv4Address | IPv6Address, port: int) -> bool:
        """Return whether an address is in its network."""
        return self.network is not None and address in self.network and self.port in {None, port}

    def is_just(self, host: str, address: IPv4Address | IPv6Address, port: int) -> bool:
        """Return whether it names one host or address and this port, and nothing else."""
        if self.port != port:
            return False
        one = self.network is not None and self.network.num_addresses == 1
        return (one and self.covers(address, port)) or ("*" not in self.pattern and self.names(host, port))


def valid_allow_entry(text: str) -> str:
    """Return an entry as it is; raise `ValueError` when it cannot be read."""
    AllowEntry.of(text)
    return text


def _as_asked(host: str) -> str:
    """Return a host name as name servers are asked for it: lower case, no final dot, ASCII (RFC 5891)."""
    name = host.removesuffix(".").lower()
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name


def _network(text: str) -> Network | None:
    try:
        return ip_network(_BRACKETED.sub(r"\1\2", text), strict=False)
    except ValueError:
        return None
