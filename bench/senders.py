"""Send a load to a receiver, with our own sender or with DCMTK's, and say what came of it."""

import json
import os
import re
import secrets
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.cargo import Cargo, cargo
from bench.natives import Natives
from bench.network import Link
from local_stack.servers import SYSTEM_PATH

# More than this written and not yet on the disk makes Linux slow the writers down (vm.dirty_background_ratio).
MOST_BYTES = 2_000_000_000
PILOT_FILES, MOST_FILES = 60, 400
FAST_ENOUGH = 150.0
PATIENCE_SECONDS = 90.0
DCMTK_SENDERS = ("dcmsend", "storescu")
_SENT = re.compile(rb"Sending (C-STORE|Store) Request")
_STORED = re.compile(rb"Received (C-STORE|Store) Response \(Success\)")


@dataclass(frozen=True)
class Load:
    """What is sent: instances of a size in bytes, over a number of associations, PDU length and link.

    With a `count`, that many; with a `rate`, no more of them per second.
    """

    size: int
    associations: int
    pdu: int = 131072
    mode: str = "stream"
    link: str = "loopback"
    seconds: float = 1.2
    no_delay: bool = False
    count: int = 0
    rate: float = 0.0

    @property
    def key(self) -> str:
        """Return its name in results."""
        sender = {"stream": "", "churn": " churn", "idle": " idle"}.get(self.mode, f" {self.mode}")
        quick = " TCP_NODELAY" if self.no_delay else ""
        pdu = f" pdu {self.pdu // 1024}K" if self.mode == "stream" else ""
        return f"{size_name(self.size)} x{self.associations}{pdu}{sender}{quick} {self.link}"


@dataclass(frozen=True)
class Sent:
    """What a sender says: instances acknowledged, over how many seconds, and the share of each association."""

    instances: int
    seconds: float
    admitted: int
    least: int
    most: int
    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    user_seconds: float
    error: str


def size_name(size: int) -> str:
    """Return a size in bytes as people say it."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit // 2:
            return f"{size / unit:.1f}".rstrip("0").rstrip(".") + f" {name}"
    return f"{size // 1000} KB"


class Senders:
    """Everything that sends; cargo is made once and kept in a folder."""

    def __init__(self, natives: Natives, folder: Path) -> None:
        self._sender = natives.sender
        self._folder = folder
        self._cargo: dict[int, Cargo] = {}
        self._files: list[list[Path]] = []
        self._rates: dict[tuple[str, str], float] = {}

    def cargo(self, size: int) -> Cargo:
        """Return the instances of a size."""
        if size not in self._cargo:
            self._cargo[size] = cargo(size)
        return self._cargo[size]

    def send(
        self,
        load: Load,
        link: Link,
        port: int,
        at_once: int,
        on_going: Callable[[], None],
        answers: Path | None = None,
    ) -> Sent:
        """Send with our own sender; `on_going` is called when sending begins, `answers` gets each answer's time."""
        made = self.cargo(load.size)
        count = load.count or max(2 * load.associations, MOST_BYTES // made.data_set_bytes)
        arguments = {
            "host": link.address,
            "port": port,
            "uid-prefix": secrets.randbelow(9 * 10**9) + 10**9,
            "associations": load.associations,
            "at-once": min(at_once or load.associations, load.associations),
            "count": 1 if load.size >= 10**9 else count,
            "seconds": load.seconds,
            "pdu": load.pdu,
            "mode": load.mode,
            "settle": 8,
            "rate": load.rate,
        } | ({"answers": answers} if answers else {})
        options = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
        command = (*link.prefix, str(self._sender), *made.write_for_sender(self._folder / str(load.size)), *options)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                return _heard(process, on_going)
            finally:
                process.kill()

    def warm(self, load: Load, link: Link, port: int) -> int:
        """Send a few small instances, so that first-time costs are not measured; return how many."""
        return self.send(Load(min(load.size, 20_000), 1, seconds=0.2), link, port, 1, lambda: None).instances

    def send_files(self, load: Load, link: Link, port: int, receiver: str, on_going: Callable[[], None]) -> Sent:
        """Send files with DCMTK's own programs, side by side; a fast receiver is sent more of them."""
        while len(self._files) < load.associations:
            folder = self._folder / f"files-{len(self._files)}"
            self._files.append(self.cargo(load.size).write_files(folder, MOST_FILES, str(10 + len(self._files))))
        fast = self._rates.get((receiver, load.key), 0) > FAST_ENOUGH * load.associations
        files = [paths[: MOST_FILES if fast else PILOT_FILES] for paths in self._files[: load.associations]]
        on_going()
        sent = _files_sent(load, link, port, files)
        self._rates[receiver, load.key] = sent.instances / sent.seconds if sent.seconds else 0
        return sent


def dcmtk_sender(name: str) -> str | None:
    """Return where DCMTK's sender is; pynetdicom installs a `storescu` of its own in this environment."""
    return shutil.which(name, path=SYSTEM_PATH)


def _heard(process: "subprocess.Popen[bytes]", on_going: Callable[[], None]) -> Sent:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line == b"going\n":
        on_going()
        line = process.stdout.readline()
    if not line:
        raise RuntimeError("the sender said nothing")
    told = json.loads(line)
    refused = f"status 0x{told['status']:04X} for {told['refused']}" if told["refused"] else ""
    return Sent(
        instances=told["stored"],
        seconds=told["seconds"],
        admitted=told["admitted"],
        least=told["least"],
        most=told["most"],
        p50_ms=told["p50_ms"],
        p99_ms=told["p99_ms"],
        cpu_seconds=told["cpu_seconds"],
        user_seconds=told["user_seconds"],
        error=told["error"] or refused,
    )


def _files_sent(load: Load, link: Link, port: int, files: Sequence[Sequence[Path]]) -> Sent:
    """Run DCMTK's senders and time them by what they print: from the first request to the last response."""
    program = dcmtk_sender(load.mode)
    assert program is not None
    env = os.environ | ({"TCP_NODELAY": "1"} if load.no_delay else {})
    before = os.times()
    processes = [
        subprocess.Popen(
            (*link.prefix, program, "-v", "--no-halt", "--call", "BUCKY", link.address, str(port), *map(str, paths)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
        )
        for paths in files
    ]
    try:
        began, ended, stored = _timed([process.stdout for process in processes if process.stdout])
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
    after = os.times()
    user = after.children_user - before.children_user
    cpu = user + after.children_system - before.children_system
    complete = all(process.returncode == 0 for process in processes)
    error = "" if complete else "a sender did not send everything"
    return Sent(sum(stored), ended - began, len(files), min(stored), max(stored), 0, 0, cpu, user, error)


def _timed(outputs: list[IO[bytes]]) -> tuple[float, float, list[int]]:
    began = ended = 0.0
    stored = [0] * len(outputs)
    deadline = time.monotonic() + PATIENCE_SECONDS
    tails = [b""] * len(outputs)
    with selectors.DefaultSelector() as selector:
        for index, output in enumerate(outputs):
            selector.register(output, selectors.EVENT_READ, index)
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(timeout=1):
                text = os.read(key.fd, 65536)
                now = time.monotonic()
                if not text:
                    selector.unregister(key.fileobj)
                    continue
                *lines, tails[key.data] = (tails[key.data] + text).split(b"\n")
                for line in lines:
                    if not began and _SENT.search(line):
                        began = now
                    if _STORED.search(line):
                        ended = now
                        stored[key.data] += 1
    return began, ended, stored
