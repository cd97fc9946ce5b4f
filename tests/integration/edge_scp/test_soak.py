"""Thousands of associations that store, stall, abort and vanish at random leave the whole edge as it was."""

import random
import socket
import struct
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

from bucky.dicom.identity import read_identity
from bucky.settings import Settings
from tests.support.dicom.sample_instances import samples
from tests.support.dimse.raw_peer import ABORT, EXPLICIT, RELEASE_RP, RELEASE_RQ, RawPeer, echo, request, store
from tests.support.edge.edge_process import EdgeProcess, edge_process, stored_events
from tests.support.soak import SOAK
from tests.support.waiting import eventually

SENDERS, WARM_UP, ASSOCIATIONS = 6, 200, 300 * SOAK
# So many silent connections each sender leaves to the edge to close.
SILENT = 8
UPLOADS = 4
# Bytes that each process may have more: not one kilobyte for each association.
GROWTH = 3 * 1024 * 1024


@dataclass
class Sender:
    """A peer that does whatever peers do, in a random order that is the same each time."""

    port: int
    chance: random.Random
    acknowledged: set[str] = field(default_factory=set)
    silent: deque[RawPeer] = field(default_factory=deque)

    def run(self, associations: int) -> None:
        """Open so many connections, one after the other, and leave none open."""
        ways = [self.goes_at_once, self.is_cut_short, self.is_rejected, self.says_no_more, self.talks_nonsense]
        ways += [self.stores_and_releases, self.stores_and_releases, self.stores_and_breaks_off, self.half_closes]
        for _ in range(associations):
            self.chance.choice(ways)()
        while self.silent:
            self.outlive()

    def goes_at_once(self) -> None:
        """Connect, and that is all."""
        self.connect().socket.close()

    def is_cut_short(self) -> None:
        """Send the beginning of a request."""
        with self.connect() as peer:
            peer.send(request()[: self.chance.randrange(1, 200)])

    def is_rejected(self) -> None:
        """Ask for somebody else."""
        with self.connect() as peer:
            peer.send(request("NOBODY"))
            assert peer.receive()[0] == 0x03

    def says_no_more(self) -> None:
        """Fall silent before, in or after the request, or in the middle of an instance."""
        peer = self.connect()
        match self.chance.randrange(4):
            case 0:
                peer.send(request()[: self.chance.randrange(200)])
            case 1:
                peer.associate()
            case 2:
                peer.associate()
                self.store(peer)
            case 3:
                peer.associate()
                message = self.message(self.content())
                peer.send(message[: self.chance.randrange(len(message))])
        self.silent.append(peer)
        if len(self.silent) > SILENT:
            self.outlive()

    def outlive(self) -> None:
        """Wait until the edge closes the connection that has been silent longest."""
        with self.silent.popleft() as peer:
            while peer.receive():
                pass

    def talks_nonsense(self) -> None:
        """Send random bytes, before or in an association."""
        with self.connect() as peer:
            if self.chance.random() < 0.5:
                peer.associate()
            peer.send(self.chance.randbytes(self.chance.randrange(1, 2000)))

    def stores_and_releases(self) -> None:
        """Behave."""
        with self.connect().associate() as peer:
            for _ in range(self.chance.randrange(3)):
                self.store(peer)
            peer.send(echo() + RELEASE_RQ)
            assert peer.status() == 0
            assert peer.receive() == RELEASE_RP

    def stores_and_breaks_off(self) -> None:
        """Abort, close or reset the connection at a random byte of an instance, or before its answer."""
        with self.connect().associate() as peer:
            if self.chance.random() < 0.5:
                self.store(peer)
            message = self.message(self.content())
            cut = self.chance.choice([len(message), self.chance.randrange(len(message))])
            ending = self.chance.choice([b"", ABORT])
            if self.chance.random() < 0.3:
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.send(message[:cut] + ending)

    def half_closes(self) -> None:
        """Send no more, and read on until the edge closes its side too."""
        with self.connect().associate() as peer:
            message = self.message(self.content())
            peer.send(message[: self.chance.randrange(len(message))])
            peer.socket.shutdown(socket.SHUT_WR)
            while peer.receive():
                pass

    def connect(self) -> RawPeer:
        """Return a new connection, with patience for a busy machine."""
        peer = RawPeer(self.port)
        peer.socket.settimeout(20)
        return peer

    def content(self) -> bytes:
        """Return a new data set of random length."""
        (sample,) = samples(1)
        padding = self.chance.randrange(0, 200_000, 2)
        head = struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, padding)
        return sample.outgoing.content().read() + head + bytes(padding)

    def message(self, content: bytes) -> bytes:
        """Return a C-STORE of a data set, in PDUs of one length or another."""
        uid = read_identity(content, EXPLICIT).sop_instance_uid
        return store(content, max_pdu=self.chance.choice([1000, 16384, 131072]), uid=uid)

    def store(self, peer: RawPeer) -> None:
        """Store an instance; note it when it was acknowledged."""
        content = self.content()
        peer.send(self.message(content))
        assert peer.stored() == (1, 0, "")
        self.acknowledged.add(sha256(content).hexdigest())


@dataclass(frozen=True)
class Footprint:
    """What a process holds; memory in bytes."""

    descriptors: int
    threads: int
    memory: int

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        """Measure a process."""
        folder = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        return cls(
            descriptors=len(list((folder / "fd").iterdir())),
            threads=int(status["Threads"]),
            memory=int(status["VmRSS"].split()[0]) * 1024,
        )

    def exceeds(self, before: "Footprint", uploads: int) -> bool:
        """Tell whether it is more than before; each upload at once may have brought a thread and a connection."""
        return (
            self.descriptors > before.descriptors + uploads
            or self.threads > before.threads + uploads
            or self.memory > before.memory + GROWTH
        )


def processes(edge: EdgeProcess) -> dict[str, int]:
    """Return the process ids of parent and children by their names."""
    assert edge.process is not None
    return {"parent": edge.process.pid} | {name: child["pid"] for name, child in edge.children().items()}


def footprints(processes: dict[str, int]) -> dict[str, Footprint]:
    """Measure all processes."""
    return {name: Footprint.of(pid) for name, pid in processes.items()}


def grown(before: dict[str, Footprint], after: dict[str, Footprint]) -> list[str]:
    """Return which processes hold more than before."""
    return [name for name in before if after[name].exceeds(before[name], UPLOADS if name == "uploader" else 0)]


def soak(edge: EdgeProcess, senders: list[Sender], associations: int) -> None:
    """Let all senders open so many each, and return when the edge is at rest."""
    with ThreadPoolExecutor(len(senders)) as pool:
        for running in [pool.submit(sender.run, associations) for sender in senders]:
            running.result()
    eventually(partial(at_rest, edge), "every connection is closed and the spool is empty")


def at_rest(edge: EdgeProcess) -> bool:
    """Tell whether no connection is open, and nothing is in the spool or counted in it."""
    health = edge.health()
    spool = health["spool"]
    return (
        health["listeners"][0]["associations"] == 0
        and (spool["instances"], spool["bytes"], spool["quarantined"]) == (0, 0, 0)
        and not list((edge.spool / "ready").iterdir())
    )


async def test_an_hour_of_associations(tmp_path: Path, store_settings: Settings, nats_settings: Settings) -> None:
    """Descriptors, threads, memory and spool of every process are flat, and nothing acknowledged is lost."""
    with edge_process(
        tmp_path,
        store_settings,
        nats_settings,
        edge_processes=2,
        edge_artim_seconds=2,
        edge_idle_seconds=2,
        upload_concurrency=UPLOADS,
    ) as edge:
        senders = [Sender(edge.port, random.Random(number)) for number in range(SENDERS)]
        soak(edge, senders, WARM_UP)
        running = processes(edge)
        before = footprints(running)
        soak(edge, senders, ASSOCIATIONS)
        assert processes(edge) == running, "no process had to be replaced"
        eventually(lambda: not grown(before, footprints(running)), f"footprints are at most {before}")
        assert not [line for line in edge.log_lines() if line["event"] in {"instance.failed", "thread.failed"}]
    stored = [event.id for event in await stored_events(nats_settings)]
    assert len(stored) == len(set(stored))
    assert set().union(*(sender.acknowledged for sender in senders)) <= set(stored)
