"""The seam of destinations: what each kind must do, and the open senders of a process."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bucky.dimse.outgoing import Outgoing, StoreResult, not_sent
from bucky.errors import DestinationUnavailable
from bucky.forwarding.places import Places
from bucky.forwarding.secrets import Secrets
from bucky.routing.destinations import Destination, DimseDestination, FolderDestination, S3Destination, StowDestination


class Sender(Protocol):
    """The way to one destination; several threads may use it at once.

    `send` returns one result for each item, in their order, and raises nothing of Bucky's for what the
    destination does. An instance has arrived when the destination answered so, and sending one that is there
    already changes nothing. What was not begun within `seconds` is left for another time.
    """

    def send(self, items: Sequence[Outgoing], *, seconds: float) -> list[StoreResult]:
        """Send every item."""

    def close(self) -> None:
        """Close what is open."""


class Senders:
    """One sender for each destination, kept while neither its definition nor what it refers to changes."""

    def __init__(self, secrets: Secrets, places: Places | None = None) -> None:
        self._secrets = secrets
        self._places = places or Places()
        self._open: dict[str, tuple[object, Sender]] = {}
        self._opening = threading.Lock()

    def send(self, destination: Destination, items: Sequence[Outgoing], *, seconds: float) -> list[StoreResult]:
        """Send every item to a destination; return one result for each, in their order."""
        try:
            self._places.check(destination)
            sender = self._sender(destination)
        except DestinationUnavailable as error:
            return [not_sent(error)] * len(items)
        return sender.send(items, seconds=seconds)

    def close(self) -> None:
        """Close every sender."""
        with self._opening:
            for _made_of, sender in self._open.values():
                sender.close()
            self._open.clear()

    def _sender(self, destination: Destination) -> Sender:
        made_of = (destination, _contents(destination, self._secrets))
        with self._opening:
            known = self._open.get(destination.name)
            if known is not None and known[0] == made_of:
                return known[1]
            # The one before is not closed: another batch may be using it. It goes with its last user.
            sender = _opened(destination, self._secrets)
            self._open[destination.name] = (made_of, sender)
            return sender


def _contents(destination: Destination, secrets: Secrets) -> tuple[bytes, ...]:
    """Return what the files hold that a destination refers to: one that changes makes a new sender."""
    files = [secrets.file(name) for name in _secret_names(destination)]
    authority: Path | None = getattr(destination, "tls_ca_file", None)
    if authority is not None and authority.is_file():
        files.append(authority)
    return tuple(file.read_bytes() for file in files)


def _secret_names(model: object) -> list[str]:
    """Return the names of secrets in a destination, those of its authentication too."""
    names: list[str] = []
    for field, value in vars(model).items():
        if field.endswith("_secret") and isinstance(value, str):
            names.append(value)
        elif field == "auth" and value is not None:
            names += _secret_names(value)
    return names


def _opened(destination: Destination, secrets: Secrets) -> Sender:
    """Open the way to a destination; what only one kind needs is imported when there is one."""
    match destination:
        case DimseDestination():
            from bucky.forwarding.dimse import DimseSender

            return DimseSender(destination, secrets)
        case FolderDestination():
            from bucky.forwarding.folder import FolderSender

            return FolderSender(destination, secrets)
        case S3Destination():
            from bucky.forwarding.s3 import S3Sender

            return S3Sender(destination, secrets)
        case StowDestination():
            from bucky.forwarding.stow import StowSender

            return StowSender(destination, secrets)
