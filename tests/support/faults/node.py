"""A DICOM node as a destination, behind a proxy, and the faults that it can have."""

import hashlib
import socket
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import count
from pathlib import Path

from bucky.dicom.part10 import split
from bucky.dimse import status
from tests.support.dicom.sample_instances import Sample
from tests.support.dimse.dimse_proxy import Act, DimseProxy, StoreRequest

AET = "NODE"
OTHER_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.8"
"""Confocal Microscopy Image Storage: newer than Debian's DCMTK and Orthanc, so to them a class they do not know."""
BYTES_PER_SECOND = 10_000
DOWN_AFTER = 5


class Fault(StrEnum):
    """What a destination does."""

    REFUSES_ASSOCIATION = "refuses the association"
    REFUSES_CLASS = "refuses one SOP class"
    WARNS = "answers warnings"
    FAILS_THIRD = "fails every third instance"
    ABORTS = "accepts, then aborts"
    HANGS = "hangs mid-transfer"
    CRAWLS = "answers at 10 KB/s"
    DOWN = "is down for a while"


Held = dict[str, set[str]]
"""The SHA-256 of each data set that a node keeps, by SOP Instance UID."""


class Node:
    """A destination that is well, until it is told otherwise."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.proxy = DimseProxy(self.connect)
        self.start()
        self.proxy.open()

    def connect(self) -> socket.socket:
        """Connect to the node itself."""
        raise NotImplementedError

    def start(self, fault: Fault | None = None) -> None:
        """Start it, with a fault that it has from the start."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it at once."""
        raise NotImplementedError

    def held(self) -> Held:
        """Return what it keeps."""
        raise NotImplementedError

    def inject(self, fault: Fault, sent: Sequence[Sample]) -> str:
        """Make it go wrong; return by what means. `sent` is what it will be sent."""
        raise NotImplementedError

    def heal(self) -> None:
        """Make it well again."""
        self.kill()
        self.start()
        self.proxy.behave()
        if not self.proxy.listening:
            self.proxy.open()

    def close(self) -> None:
        """End it."""
        self.proxy.close()
        self.kill()

    def _restart(self, fault: Fault) -> None:
        self.kill()
        self.start(fault)

    def _go_down(self) -> str:
        """End in the middle of it all, and let nobody in, until healed."""
        answers = count(1)

        def ends(_request: StoreRequest, said: int) -> Act | int:
            number = next(answers)
            if number < DOWN_AFTER:
                return said
            if number == DOWN_AFTER:
                self.proxy.close()
                self.kill()
            return Act.CUT

        self.proxy.on_response = ends
        return f"killed as it answers the {DOWN_AFTER}th"


def third(sent: Sequence[Sample]) -> set[str]:
    """Return the SOP Instance UIDs of every third instance."""
    return {one.sop_instance_uid for one in sent[2::3]}


def by_proxy(proxy: DimseProxy, fault: Fault, sent: Sequence[Sample]) -> str:
    """Have the proxy do what the node cannot be made to do."""
    match fault:
        case Fault.WARNS:
            proxy.on_response = lambda _request, said: 0xB000 if said == status.SUCCESS else said
        case Fault.FAILS_THIRD:
            fails = third(sent)
            proxy.on_request = lambda request: 0xC001 if request.sop_instance_uid in fails else Act.PASS
        case Fault.ABORTS:
            proxy.on_request = lambda _request: Act.ABORT
        case Fault.HANGS:
            proxy.on_request = lambda _request: Act.HANG
        case Fault.CRAWLS:
            proxy.crawl(BYTES_PER_SECOND)
        case _:
            raise AssertionError(fault)
    return "proxy"


def held_in(files: Iterable[bytes]) -> Held:
    """Return what DICOM files hold."""
    held: Held = {}
    for content in files:
        meta, offset = split(content)
        held.setdefault(meta.sop_instance_uid, set()).add(hashlib.sha256(content[offset:]).hexdigest())
    return held
