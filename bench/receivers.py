"""The receivers that are compared, and how each is started: as shipped, on a port, storing into a folder."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.natives import Bare, Natives
from bench.network import listening
from bench.stored import SLOT_BYTES, SLOTS
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from edge_scp.spool.slots import wanted
from local_stack.servers import SYSTEM_PATH

MAX_PDU = 131072
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
# Small answers of DCMTK's network code wait for Nagle's algorithm unless this is set; it would flatter us.
DCMTK_ENVIRONMENT = {"TCP_NODELAY": "1"}


@dataclass(frozen=True)
class Launch:
    """How to start a receiver."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    # Beside its port being open.
    ready: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class Receiver:
    """One program under test; `at_once` is how many associations it serves at a time, 0 when there is no such limit."""

    name: str
    promise: str
    launch: Callable[[str, int, Path], Launch]
    at_once: int = 0


@dataclass(frozen=True)
class Missing:
    """A receiver that cannot be measured here, and why."""

    name: str
    reason: str


class Running:
    """A started receiver."""

    def __init__(self, receiver: Receiver, folder: Path, address: str) -> None:
        self.receiver, self.folder, self.port = receiver, folder, free_port()
        folder.mkdir(parents=True)
        launch = receiver.launch(address, self.port, folder)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BUCKY_")}
        self._log = (folder.parent / f"{folder.name}.log").open("wb")
        self.process = subprocess.Popen(
            launch.argv, env={**inherited, **launch.env}, stdout=self._log, stderr=self._log, cwd=folder.parent
        )
        try:
            self._wait_until_ready(launch.ready)
        except BaseException:
            # An interrupted benchmark leaves no receiver behind.
            self.stop()
            raise

    def _wait_until_ready(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not (listening(self.port) and ready()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = Path(self._log.name).read_text(errors="replace")[-500:]
                raise RuntimeError(f"{self.receiver.name} did not start: {tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask it to end, then make it."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


def found(natives: Natives, *, own_network: bool) -> tuple[list[Receiver], list[Missing]]:
    """Return the receivers that can be measured on this machine, ours first, and those that cannot."""
    receivers, missing = [_bucky()], []
    if natives.bare:
        receivers.append(_bare_bucky(natives.bare))
    else:
        missing.append(Missing("bucky bare", "its native part is built without digests, which takes cargo"))
    storescp, orthanc = shutil.which("storescp", path=SYSTEM_PATH), shutil.which("Orthanc", path=SYSTEM_PATH)
    needs_network = "listens on all addresses, so it needs a network namespace (root and iproute2)"
    if storescp and own_network:
        receivers += _dcmtk(storescp)
    else:
        missing.append(Missing("storescp", needs_network if storescp else "DCMTK is not installed (make test-peers)"))
    if orthanc and own_network:
        receivers.append(_orthanc(orthanc))
    else:
        missing.append(Missing("Orthanc", needs_network if orthanc else "Orthanc is not installed (make test-peers)"))
    receivers.append(_pynetdicom())
    if natives.sink:
        receivers += _sinks(natives.sink)
    else:
        missing.append(Missing("C sink", "OpenSSL's libcrypto.so.3 is not there to link with"))
    return receivers, missing


def _bucky() -> Receiver:
    return Receiver("bucky", "group sync, SHA-256", lambda address, port, folder: _edge(address, port, folder, {}))


def _bare_bucky(bare: Bare) -> Receiver:
    return Receiver("bucky bare", "—", lambda address, port, folder: _edge(address, port, folder, bare.env))


def _edge(address: str, port: int, folder: Path, more: Mapping[str, str]) -> Launch:
    """Return the edge as shipped, with neither store nor broker to be reached: it keeps what it receives.

    It has run before, so its slots are there, if it uses any.
    """
    listener = {"port": port, "host": address, "allow_networks": ["127.0.0.0/8", "10.77.9.0/30"]}
    env = {
        "BUCKY_EDGE_LISTENERS": json.dumps([listener]),
        "BUCKY_EDGE_HTTP_PORT": str(free_port()),
        "BUCKY_SPOOL_DIR": str(folder),
        "BUCKY_STORE_ENDPOINT": "http://127.0.0.1:9",
        "BUCKY_NATS_URL": "nats://127.0.0.1:9",
    }
    slots = folder / SLOTS
    if (kept := folder.parent / SLOTS).exists():
        kept.rename(slots)
    prepared = wanted(Settings()) * SLOT_BYTES
    return Launch(
        (sys.executable, "-m", "edge_scp"),
        {**env, **more},
        ready=lambda: not prepared or (slots.exists() and slots.stat().st_size >= prepared),
    )


def _dcmtk(storescp: str) -> list[Receiver]:
    def variant(name: str, promise: str, *options: str, at_once: int = 0) -> Receiver:
        def launch(address: str, port: int, folder: Path) -> Launch:  # noqa: ARG001 - it takes no address
            argv = (storescp, "--max-pdu", str(MAX_PDU), *options, "--output-directory", str(folder), str(port))
            return Launch(argv, DCMTK_ENVIRONMENT)

        return Receiver(name, promise, launch, at_once)

    return [
        variant("storescp", "—", at_once=1),
        variant("storescp --fork", "—", "--fork"),
        variant("storescp +B", "—", "+B", at_once=1),
        variant("storescp --fork +B", "—", "--fork", "+B"),
    ]


def _orthanc(program: str) -> Receiver:
    def launch(address: str, port: int, folder: Path) -> Launch:  # noqa: ARG001 - it takes no address
        configuration = {
            "Name": "bench",
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "DicomPort": port,
            "DicomCheckCalledAet": False,
            "MaximumPduLength": MAX_PDU,
            "HttpPort": free_port(),
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
        }
        file = folder.parent / f"{folder.name}.json"
        file.write_text(json.dumps(configuration))
        return Launch((program, str(file)), DCMTK_ENVIRONMENT)

    return Receiver("Orthanc", "sync, MD5, index", launch)


def _pynetdicom() -> Receiver:
    def launch(address: str, port: int, folder: Path) -> Launch:
        argv = (sys.executable, "-m", "pynetdicom", "storescp", str(port), "--bind-address", address)
        return Launch((*argv, "--max-pdu", str(MAX_PDU), "--output-directory", str(folder)))

    # Its application entity admits ten associations unless the program says otherwise, and this one does not.
    return Receiver("pynetdicom", "—", launch, at_once=10)


def _sinks(sink: Path) -> list[Receiver]:
    def variant(name: str, promise: str, *mode: str) -> Receiver:
        def launch(address: str, port: int, folder: Path) -> Launch:
            return Launch((str(sink), address, str(port), str(folder), *mode))

        return Receiver(name, promise, launch)

    return [
        variant("C sink", "—", "none"),
        variant("C sink, sync each", "file sync, SHA-256", "file", "digest"),
        variant("C sink, group sync", "group sync, SHA-256", "group", "digest"),
    ]
