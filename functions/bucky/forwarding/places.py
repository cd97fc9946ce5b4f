"""Where destinations may be: the addresses and folders of `BUCKY_DESTINATION_ALLOW`.

Whoever edits the routing decides what this installation connects to and where it writes. Its own ports and folders,
and the addresses at which clouds give out secrets, are no destination unless an entry names just that.
"""

import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from bucky.errors import DestinationUnavailable
from bucky.routing.destinations import Destination, DimseDestination, FolderDestination, S3Destination
from bucky.runtime.tls import MISCONFIGURED_RETRY_SECONDS
from bucky.settings import Settings
from bucky.text.allow_entry import AllowEntry, Network

Address = IPv4Address | IPv6Address

METADATA: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            *("169.254.0.0/16", "fe80::/10", "100.100.100.200", "168.63.129.16"),
            *("fd00:ec2::/32", "fd20:ce::/32", "fd00:c1::/32"),
        ),
    )
)
"""Link-local addresses, and those of Alibaba, Azure, AWS, Google and Oracle that are not."""
_NAT64 = ip_network("64:ff9b::/96")
_PORTS = {"http": 80, "https": 443, "nats": 4222, "tls": 4222, "postgresql+psycopg": 5432, "postgresql": 5432}
_SAY_SO = "if it is meant, name exactly that in BUCKY_DESTINATION_ALLOW"


class Places:
    """Says of a destination whether it may be where it is."""

    def __init__(
        self,
        allowed: Iterable[AllowEntry] = (),
        own_ports: Iterable[tuple[str, int]] = (),
        own_folders: Iterable[Path] = (),
    ) -> None:
        self._allowed = tuple(allowed)
        self._own_ports = tuple(own_ports)
        self._own_folders = tuple(own_folders)

    @classmethod
    def of(cls, settings: Settings) -> "Places":
        """Return what the settings allow."""
        return cls(map(AllowEntry.of, settings.destination_allow), _own_ports(settings), _own_folders(settings))

    def check(self, destination: Destination) -> None:
        """Raise `DestinationUnavailable` when nothing may be sent there: an administrator can put that right."""
        if refusal := self.refusal(destination):
            raise DestinationUnavailable(refusal, MISCONFIGURED_RETRY_SECONDS)

    def refusal(self, destination: Destination) -> str:
        """Return why nothing may be sent there, or an empty text; a name that cannot be found now is no reason."""
        if isinstance(destination, FolderDestination):
            return self._refused_folder(destination.folder)
        host, port = _host_and_port(destination)
        return self._refused_address(host, port)

    def _refused_folder(self, folder: Path) -> str:
        meant = folder.resolve()
        if any(entry.folder == folder for entry in self._allowed):
            return ""
        for own in self._own_folders:
            if meant.is_relative_to(own.resolve()) or own.resolve().is_relative_to(meant):
                return f"the folder {folder} holds files of Bucky's own ({own}): take another, or {_SAY_SO}"
        if self._allowed and not any(entry.holds(meant) for entry in self._allowed):
            return f"the folder {folder} is not among those that BUCKY_DESTINATION_ALLOW lists"
        return ""

    def _refused_address(self, host: str, port: int) -> str:
        addresses = _addresses(host)
        for address in addresses:
            if any(entry.is_just(host, address, port) for entry in self._allowed):
                continue
            if any(address in network for network in METADATA):
                return f"{_named(host, address)} an address at which machines are told their secrets: {_SAY_SO}"
            if self._is_own(address, port):
                return f"{host}:{port} is a port of Bucky's own: take another address, or {_SAY_SO}"
        if not self._allowed:
            return ""
        named = any(entry.names(host, port) for entry in self._allowed)
        held = addresses and all(any(entry.covers(one, port) for entry in self._allowed) for one in addresses)
        return "" if named or held else f"{host}:{port} is not among the addresses that BUCKY_DESTINATION_ALLOW lists"

    def _is_own(self, address: Address, port: int) -> bool:
        hosts = {host for host, own in self._own_ports if own == port}
        theirs = {one for host in hosts for one in _addresses(host)}
        return address in theirs or (any(map(_is_here, theirs)) and _is_here(address))


def _named(host: str, address: Address) -> str:
    """Begin a sentence about an address; say it once where it is the host."""
    return f"{host} is" if host == str(address) else f"{host} is {address},"


def _host_and_port(destination: Destination) -> tuple[str, int]:
    if isinstance(destination, DimseDestination):
        return destination.host, destination.port
    if isinstance(destination, S3Destination):
        url = destination.endpoint or f"https://s3.{destination.region}.amazonaws.com"
    else:
        assert not isinstance(destination, FolderDestination)  # noqa: S101 - it has no address
        url = destination.url
    found = _of_url(url)
    assert found is not None  # noqa: S101 - the model has seen to it
    return found


def _of_url(url: str) -> tuple[str, int] | None:
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    return (parts.hostname, port) if parts.hostname and port else None


def _own_ports(settings: Settings) -> Iterable[tuple[str, int]]:
    """Return where Bucky itself listens, as the settings say; not the object store, which may hold other buckets."""
    urls = (
        *(settings.nats_url, settings.nats_monitor_url, settings.gateway_url, settings.public_url),
        *(settings.edge_health_url, settings.connector_health_url, settings.keeper_health_url),
        *(settings.traefik_health_url, settings.index_url.get_secret_value()),
    )
    ports = (
        *(settings.edge_http_port, settings.connector_http_port, settings.keeper_http_port),
        *(settings.provider_port, settings.admin_port, *(listener.port for listener in settings.edge_listeners)),
    )
    yield from (found for url in urls if (found := _of_url(url)) is not None)
    yield from (("127.0.0.1", port) for port in ports)


def _own_folders(settings: Settings) -> Iterable[Path]:
    named = (
        *(settings.secrets_dir, settings.destination_secrets_dir, settings.spool_dir, settings.crosswalk_dir),
        *(settings.local_cache_dir, settings.store_files_dir, settings.provider_dir, settings.store_barrier_path),
    )
    yield from (folder for folder in named if folder is not None)
    yield from (settings.home / name for name in ("nats", "run", "tls", "secrets", "logs"))


def _addresses(host: str) -> list[Address]:
    """Return every address of a host; none when it cannot be found."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({_plain(str(entry[4][0])) for entry in found}, key=str)


def _plain(text: str) -> Address:
    """Return an address; an IPv4 one that is reached by an IPv6 one (RFC 4291 §2.5.5.2, 3056, 6052) as what it is."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_here(address: Address) -> bool:
    """Return whether an address is this machine's: only such a one can be listened on."""
    if address.is_loopback or address.is_unspecified:
        return True
    with suppress(OSError), socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET) as probe:
        probe.bind((str(address), 0))
        return True
    return False
