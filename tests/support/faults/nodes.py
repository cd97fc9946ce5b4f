"""Real DICOM nodes, and how each is made to go wrong.

A fault is the node's own wherever it can be: an option it has, a file in its way, its end. The rest is the proxy's.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from bucky.dimse import status
from local_stack.destination import Destination, ReceivedRequest, ScriptedAnswer
from local_stack.servers import built
from tests.support.dicom.sample_instances import Sample
from tests.support.faults.node import AET, OTHER_CLASS, Fault, Held, Node, by_proxy, held_in, third

RELAY = Path(__file__).with_name("relay_alone.py")


class AloneNode(Node):
    """A program that listens on all addresses, in a network of its own."""

    def start(self, fault: Fault | None = None) -> None:
        """Start it and wait until it listens."""
        # The name of a socket is short; pytest's folders are not.
        self._sockets = Path(tempfile.mkdtemp(prefix="bucky-"))
        ways = [f"{self._sockets / name}={port}" for name, port in self.ports.items()]
        root = () if os.geteuid() == 0 else ("--map-root-user",)
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                (
                    *("unshare", *root, "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"),
                    *(sys.executable, str(RELAY), *ways, "--", *self.command(fault)),
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1"},
                start_new_session=True,
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", f"{self.name} did not start"

    def kill(self) -> None:
        """End it and all that belongs to it, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            assert end is not None
            end.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def connect(self) -> socket.socket:
        """Connect by the file that leads to its DICOM port."""
        way = socket.socket(socket.AF_UNIX)
        try:
            way.connect(str(self._sockets / "dicom"))
        except OSError:
            way.close()
            raise
        return way

    @property
    def ports(self) -> Mapping[str, int]:
        """Its ports by name."""
        return {"dicom": 11112}

    def command(self, fault: Fault | None) -> Sequence[str]:
        """Return how it is started."""
        raise NotImplementedError


class Storescp(AloneNode):
    """DCMTK's storescp, which writes what it gets bit by bit."""

    name = "storescp"
    OPTIONS: Mapping[Fault, tuple[str, ...]] = {
        Fault.REFUSES_ASSOCIATION: ("--refuse",),
        Fault.ABORTS: ("--abort-after",),
        Fault.HANGS: ("--sleep-during", "600"),
    }

    def command(self, fault: Fault | None) -> Sequence[str]:
        """Return its command line; without `--promiscuous` it takes only the SOP classes it knows."""
        program = built("storescp")
        assert program is not None
        return (
            *(program, "--fork", "+B", "+xa", "--max-pdu", "131072", "-aet", AET, "-od", str(self.folder)),
            *(() if fault is Fault.REFUSES_CLASS else ("--promiscuous",)),
            *(self.OPTIONS.get(fault, ()) if fault else ()),
            "11112",
        )

    def inject(self, fault: Fault, sent: Sequence[Sample]) -> str:
        """Start it anew with an option of its own, put something in its way, or leave it to the proxy."""
        match fault:
            case Fault.FAILS_THIRD:
                for uid in third(sent):
                    for prefix in ("CT", "UNKNOWN"):
                        (self.folder / f"{prefix}.{uid}").mkdir()
                return "a folder where it would write"
            case Fault.DOWN:
                return self._go_down()
            case Fault.WARNS | Fault.CRAWLS:
                return by_proxy(self.proxy, fault, sent)
        self._restart(fault)
        return "without --promiscuous" if fault is Fault.REFUSES_CLASS else " ".join(self.OPTIONS[fault])

    def heal(self) -> None:
        """Take out of its way what was put there, too."""
        for folder in self.folder.iterdir():
            if folder.is_dir():
                folder.rmdir()
        super().heal()

    def held(self) -> Held:
        """Read its folder."""
        return held_in(path.read_bytes() for path in self.folder.iterdir() if path.is_file())


class Orthanc(AloneNode):
    """Orthanc."""

    name = "orthanc"

    @property
    def ports(self) -> Mapping[str, int]:
        """Its DICOM port and its REST API's."""
        return {"dicom": 11112, "http": 8042}

    def command(self, fault: Fault | None) -> Sequence[str]:
        """Return its command line; a fault that it has from the start is in its configuration."""
        program = built("Orthanc")
        assert program is not None
        configuration: dict[str, Any] = {
            **{"StorageDirectory": str(self.folder), "IndexDirectory": str(self.folder)},
            **{"DicomAet": "OTHER" if fault is Fault.REFUSES_ASSOCIATION else AET, "DicomCheckCalledAet": True},
            "UnknownSopClassAccepted": fault is not Fault.REFUSES_CLASS,
            **{"DicomPort": 11112, "HttpPort": 8042, "AuthenticationEnabled": False},
        }
        file = self.folder.parent / f"{self.folder.name}.json"
        file.write_text(json.dumps(configuration))
        return program, str(file)

    def inject(self, fault: Fault, sent: Sequence[Sample]) -> str:
        """Start it anew with another configuration, end it, or leave it to the proxy."""
        match fault:
            case Fault.REFUSES_ASSOCIATION:
                self._restart(fault)
                return "DicomCheckCalledAet"
            case Fault.REFUSES_CLASS:
                self._restart(fault)
                return "unknown classes off"
            case Fault.DOWN:
                return self._go_down()
        return by_proxy(self.proxy, fault, sent)

    def held(self) -> Held:
        """Ask its REST API for every file."""
        # A connection for each: Orthanc closes an idle one after a second, which may be just when the next is asked.
        anew = httpx.Limits(max_keepalive_connections=0)
        transport = httpx.HTTPTransport(uds=str(self._sockets / "http"), limits=anew)
        with httpx.Client(base_url="http://orthanc", transport=transport, timeout=120) as client:
            names = client.get("/instances").json()
            return held_in(client.get(f"/instances/{name}/file").content for name in names)


class Scripted(Node):
    """The SCP that does what a script says."""

    name = "scripted"

    def start(self, fault: Fault | None = None) -> None:
        """Open it."""
        self._scp = Destination(
            self.folder,
            aet="OTHER" if fault is Fault.REFUSES_ASSOCIATION else AET,
            refused_sop_classes=[OTHER_CLASS] if fault is Fault.REFUSES_CLASS else [],
        ).__enter__()

    def kill(self) -> None:
        """Close it."""
        self._scp.__exit__()

    def connect(self) -> socket.socket:
        """Connect to its port."""
        return socket.create_connection(("127.0.0.1", self._scp.port))

    def inject(self, fault: Fault, sent: Sequence[Sample]) -> str:
        """Give it a script."""
        script: Callable[[ReceivedRequest], ScriptedAnswer]
        match fault:
            case Fault.REFUSES_ASSOCIATION | Fault.REFUSES_CLASS:
                self._restart(fault)
                return "script"
            case Fault.DOWN:
                return self._go_down()
            case Fault.CRAWLS:
                return by_proxy(self.proxy, fault, sent)
            case Fault.WARNS:
                script = _always(ScriptedAnswer(0xB007))
            case Fault.ABORTS:
                script = _always(ScriptedAnswer(abort=True))
            case Fault.HANGS:
                script = _always(ScriptedAnswer(delay=600))
            case Fault.FAILS_THIRD:
                fails = third(sent)

                def script(received: ReceivedRequest) -> ScriptedAnswer:
                    failing = received.sop_instance_uid in fails
                    return ScriptedAnswer(status.DATA_SET_MISMATCH if failing else status.SUCCESS)

        self._scp.script = script
        return "script"

    def held(self) -> Held:
        """Read its folder."""
        return held_in(path.read_bytes() for path in self._scp.received().values())


NODES: tuple[type[Node], ...] = (Storescp, Orthanc, Scripted)


def skip_unless_alone() -> None:
    """Skip where a program cannot have a network of its own."""
    root = () if os.geteuid() == 0 else ("--map-root-user",)
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, *root, "--net", "true"], check=False).returncode:
        pytest.skip("this system lets nobody make a network namespace")


def _always(answer: ScriptedAnswer) -> Callable[[ReceivedRequest], ScriptedAnswer]:
    return lambda _received: answer
