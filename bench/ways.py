"""The pipelines that are compared end to end: each receives, and sends on what it received to one node."""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import httpx

from bench.network import listening
from bench.receivers import DCMTK_ENVIRONMENT, MAX_PDU, READY_SECONDS, STOP_SECONDS
from bench.usage import own_seconds, tree
from bucky.index import DeliveryState
from bucky.routing.document import Routing
from bucky.runtime.ports import free_port
from local_stack import servers
from local_stack.commands import stop_stack
from local_stack.layout import Home
from local_stack.process import start, stop, wait_ready
from tests.support.stack.running_stack import RunningStack

NODE = "node"
_EDGE = ("receiving", "committing", "uploading")
_LUA = "function OnStoredInstance(instanceId, tags, metadata, origin)\n  SendToModality(instanceId, 'node')\nend\n"


class Way(Protocol):
    """One pipeline, running."""

    port: int

    def send_to(self, port: int) -> None:
        """Send everything that comes from now on to the DICOM node at this port of loopback."""

    def delivered(self) -> int | None:
        """Return how many instances it says the node has; None when it keeps no such record."""

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds used so far, by what used them."""

    def pids(self) -> list[int]:
        """Return the processes that are it, or that have started all of it."""

    def stop(self) -> None:
        """End it."""


class BuckyWay:
    """The whole stack as `bucky up` starts it, with one rule: everything to the node.

    With `seaweedfs` the home is one that SeaweedFS serves, whatever was built.
    """

    def __init__(
        self, folder: Path, environ: Mapping[str, str] = MappingProxyType({}), *, seaweedfs: bool = False
    ) -> None:
        home = folder / "bucky"
        (Home(home).volumes if seaweedfs else folder).mkdir(parents=True, exist_ok=True)
        try:
            self._stack = RunningStack(home, dict(environ))
        except BaseException:
            # An interrupted benchmark leaves nothing running.
            stop_stack(Home(home))
            raise
        self.port = self._stack.ports.dicom

    def send_to(self, port: int) -> None:
        """Put one destination and one rule in force."""
        destination = {"name": NODE, "type": "dimse", "aet": "NODE", "host": "127.0.0.1", "port": port}
        wanted = Routing.model_validate(
            {
                "destinations": [{**destination, "max_associations": 4}],
                "rules": [{"name": "everything", "destinations": [NODE]}],
            }
        )
        version = self._stack.api.get("/api/routing")["version"]
        self._stack.api.put("/api/routing", wanted.model_dump(mode="json"), version)

    def delivered(self) -> int:
        """Return how many deliveries the index holds as done."""
        counts = self._stack.index.delivery_counts()
        return sum(one.count for one in counts if one.state is DeliveryState.DELIVERED and one.destination == NODE)

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds of each program, function, and kind of the edge's processes."""
        used: dict[str, float] = {}
        for name, pid in self._stack.pids().items():
            for one in tree(pid):
                part = _part(name, one)
                used[part] = used.get(part, 0.0) + own_seconds(one)
        return used

    def pids(self) -> list[int]:
        """Return the supervisor, which has started the rest."""
        return [self._stack.process.pid]

    def stop(self) -> None:
        """Stop as Ctrl-C does."""
        self._stack.stop()


class BuckyOnMinioWay(BuckyWay):
    """The same with MinIO for its object store."""

    def __init__(self, program: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        port, keys = free_port(), (f"bucky{secrets.token_hex(4)}", secrets.token_hex(16))
        minio = servers.minio(program, folder / "minio", port, free_port(), *keys)
        self._minio = start(minio, folder / "minio.log")
        try:
            wait_ready(minio, self._minio, folder / "minio.log")
            store = {"ENDPOINT": f"http://127.0.0.1:{port}", "ACCESS_KEY": keys[0], "SECRET_KEY": keys[1]}
            super().__init__(folder, {f"BUCKY_STORE_{name}": value for name, value in store.items()})
        except BaseException:
            stop(self._minio, STOP_SECONDS)
            raise

    def cpu_seconds(self) -> dict[str, float]:
        """Return MinIO's too."""
        return super().cpu_seconds() | {"minio": sum(map(own_seconds, tree(self._minio.pid)))}

    def pids(self) -> list[int]:
        """Return MinIO's too."""
        return [*super().pids(), self._minio.pid]

    def stop(self) -> None:
        """Stop the stack, then MinIO."""
        super().stop()
        stop(self._minio, STOP_SECONDS)


class OrthancWay:
    """Orthanc, as its users route with it: a Lua script that sends each stored instance on; `more` is configuration."""

    def __init__(self, program: str, folder: Path, **more: object) -> None:
        self.port, http, self._folder = free_port(), free_port(), folder
        folder.mkdir(parents=True)
        script = folder / "autorouting.lua"
        script.write_text(_LUA)
        configuration = {
            "Name": "bench",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomPort": self.port,
            "DicomCheckCalledAet": False,
            "MaximumPduLength": MAX_PDU,
            "HttpPort": http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "LuaScripts": [str(script)],
            **more,
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{http}", trust_env=False)
        with (folder / "orthanc.log").open("wb") as log:
            self._process = subprocess.Popen(
                (program, str(folder / "orthanc.json")),
                env={**os.environ, **DCMTK_ENVIRONMENT},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not (listening(self.port) and listening(http)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"Orthanc did not start: {(folder / 'orthanc.log').read_text()[-500:]}")
            time.sleep(0.05)

    def send_to(self, port: int) -> None:
        """Name the node."""
        node: Mapping[str, object] = {"AET": "NODE", "Host": "127.0.0.1", "Port": port}
        self._http.put(f"/modalities/{NODE}", json=node).raise_for_status()

    def delivered(self) -> None:
        """Return None: Orthanc forgets a job that succeeded."""

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds of the one process."""
        return {"Orthanc": sum(map(own_seconds, tree(self._process.pid)))}

    def pids(self) -> list[int]:
        """Return the one process."""
        return [self._process.pid]

    def stop(self) -> None:
        """Ask it to end, then make it."""
        self._http.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _part(program: str, pid: int) -> str:
    """Return what a process is: the function it serves, which of the edge's it is, or its program."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return program
    if program == "edge":
        return next((f"edge, {name}" for name in _EDGE if f"edge_scp.{name}".encode() in words), "edge, parent")
    # `bucky.serve` gives its process the function's name, the first fifteen characters of it.
    return comm if program == "provider" and not comm.startswith("python") else program
