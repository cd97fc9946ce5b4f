"""The whole stack under test: `bucky up` in a folder of its own, on free ports, as a user runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from bucky.cli.api_client import Access, ApiClient, ApiFailed
from bucky.index import DeliveryRow, DeliveryState, Index, InstanceRow
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from local_stack.demo_routing import ensure_demo_routing
from local_stack.layout import Home, Ports
from local_stack.process import last_line
from local_stack.stack import build
from tests.support.servers import Running
from tests.support.stack.processes import children_of, looked_up, serving
from tests.support.waiting import eventually

START_SECONDS = 300.0
MOST_ROWS = 100_000
EDGE_CHILDREN = {
    "edge receivers": "receive_worker",
    "edge committer": "commit_worker",
    "edge uploader": "upload_worker",
}


class RunningStack:
    """`bucky up --free-ports --with-destination`, its API, and the means to break it."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.home = Home(folder)
        self.environ = dict(environ)
        self.others: dict[str, Running] = {}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BUCKY_")}
        self.log = folder.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                (
                    *(sys.executable, "-m", "bucky.cli", "up", "--home", str(folder)),
                    *("--free-ports", "--with-destination"),
                ),
                env={**inherited, **environ},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        eventually(self._ready_or_ended, "the stack is ready", seconds=START_SECONDS)
        if self.process.poll() is not None:
            raise AssertionError(f"bucky up ended: {last_line(self.log)}")
        self.last_pids = tuple(self.pids().values())
        self.ports = Ports(**self._record()["ports"])
        self.settings: Settings = build(self.home, self.ports, self.environ).settings
        self.store = S3ObjectStore(self.settings)
        self.index = Index.open(self.settings.index_url.get_secret_value())
        # Straight to the admin API: Traefik has tests of its own, and may be what is being killed.
        url = f"http://127.0.0.1:{self.ports.admin}"
        self.api = ApiClient(Access(url, self.settings.api_key.get_secret_value(), None)).__enter__()
        ensure_demo_routing(self.api, self.ports.destination)

    def close(self) -> None:
        """Close this test's own connections; the stack goes on."""
        self.api.__exit__(None, None, None)
        self.index.close()

    def stop(self) -> None:
        """Stop as Ctrl-C does, and insist on a clean end."""
        self.close()
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(300)
        assert code == 0, f"bucky up ended with {code}: {last_line(self.log)}"

    def pids(self) -> dict[str, int]:
        """Return the process id of each of the stack's programs."""
        return {name: int(entry["pid"]) for name, entry in self._record()["processes"].items()}

    def pid(self, program: str) -> int:
        """Return the process id of one of the stack's programs."""
        return self.pids()[program]

    def function_pids(self, name: str) -> list[int]:
        """Return the process ids of a function's replicas: the processes that serve its handler."""
        return serving(name, self.pid("provider"))

    def edge_pids(self, module: str) -> list[int]:
        """Return the process ids of the edge's children that run a module."""
        wanted = f"edge_scp.process.{module}".encode()
        return [pid for pid in children_of(self.pid("edge")) if wanted in looked_up(pid, "cmdline").split(b"\0")]

    def kill(self, program: str) -> None:
        """`kill -9` a program of the stack, a function, or another server, which is then started again."""
        if program == "index connections":
            self._end_index_connections()
            return
        if program in self.others:
            self.others[program].kill()
            self.others[program].start()
            return
        if program in EDGE_CHILDREN:
            pids = self.edge_pids(EDGE_CHILDREN[program])
        else:
            pids = [self.pid(program)] if program in self.pids() else self.function_pids(program)
        assert pids, f"{program} does not run"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def _end_index_connections(self) -> None:
        """Make PostgreSQL end every connection to the index, as a failover does."""
        url = self.settings.index_url.get_secret_value().replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def healthy(self) -> bool:
        """Say whether every part reports that it is well."""
        try:
            return bool(self.api.get("/health"))
        except ApiFailed:
            return False

    def deliveries(self, study: str, state: DeliveryState | None = None) -> list[DeliveryRow]:
        """Return every delivery of a study."""
        return self.index.deliveries(study_uid=study, state=state, limit=MOST_ROWS)

    def instances(self, study: str) -> list[InstanceRow]:
        """Return every row the index has of a study's instances."""
        return self.index.instances(study, limit=MOST_ROWS)

    def _record(self) -> dict[str, Any]:
        return self.home.read_record() or {"processes": {}}

    def _ready_or_ended(self) -> bool:
        record = self._record()
        # A record that an earlier, killed `bucky up` left does not count.
        ready = record.get("supervisor") == self.process.pid and record["ready"]
        return bool(ready) or self.process.poll() is not None
