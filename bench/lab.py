"""One measurement: start a receiver, warm it, send it a load, take its numbers, check what it stored, clean up."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import stored
from bench.ballast import SIZE, Ballast
from bench.network import LOOPBACK, Link
from bench.receivers import Receiver, Running
from bench.senders import DCMTK_SENDERS, Load, Senders, Sent, dcmtk_sender
from bench.usage import PeakMemory, Window, wait_for_calm

WARM_SIZE = 20_000


@dataclass(frozen=True)
class Run:
    """One receiver under one load, once; `void` says why its numbers do not count."""

    rate: float
    megabytes: float
    cpu_ms: float
    cpu_percent: float
    idle_bytes: int
    peak_bytes: int
    instances: int
    seconds: float
    admitted: int
    least: int
    most: int
    p50_ms: float
    p99_ms: float
    sender_cpu_ms: float
    others: float
    void: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


class Lab:
    """The bench: a folder on the disk that is measured, the senders, and the links there are.

    `patience` is how many seconds it waits, before each run, for other programs to leave the cores alone.
    """

    def __init__(self, folder: Path, senders: Senders, links: dict[str, Link], patience: float) -> None:
        self._folder = folder
        self._senders = senders
        self._links = links
        self._patience = patience
        self._ballast = Ballast()
        self._filled: dict[tuple[str, Load], float] = {}
        self._count = 0

    def can_send(self, load: Load) -> bool:
        """Tell whether there is the link and the sender that a load needs."""
        return load.link in self._links and (load.mode not in DCMTK_SENDERS or dcmtk_sender(load.mode) is not None)

    def measure(self, receiver: Receiver, load: Load) -> Run:
        """Run a receiver under a load once."""
        self._count += 1
        folder = self._folder / f"{self._count:04d}-{receiver.name.replace(' ', '-')}"
        link = self._links[load.link]
        running = Running(receiver, folder, "127.0.0.1" if link is LOOPBACK else "0.0.0.0")  # noqa: S104 - own network
        try:
            self._ballast.hold()
            warmed = self._senders.warm(load, link, running.port)
            wait_for_calm(self._patience)
            self._ballast.release(self._will_fill(receiver, load))
            window, memory, sent = self._sent(running, load, link)
        finally:
            running.stop()
        run = _figures(self._senders.cargo(load.size).data_set_bytes, window, memory, sent)
        self._filled[receiver.name, load] = run.megabytes * 1e6 * run.seconds
        run = self._checked(run, folder, load, sent, warmed)
        stored.empty(folder)
        self._ballast.hold()
        return run

    def _sent(self, running: Running, load: Load, link: Link) -> tuple["_Numbers", PeakMemory, Sent]:
        windows: list[Window] = []

        def going() -> None:
            windows.append(Window(running.process.pid))

        with PeakMemory(running.process.pid) as memory:
            if load.mode in DCMTK_SENDERS:
                sent = self._senders.send_files(load, link, running.port, running.receiver.name, going)
            else:
                sent = self._senders.send(load, link, running.port, running.receiver.at_once, going)
            window = windows[0]
            numbers = _Numbers(window.cpu_seconds(), window.seconds(), window.others_share(sent.user_seconds))
        return numbers, memory, sent

    def _checked(self, run: Run, folder: Path, load: Load, sent: Sent, warmed: int) -> Run:
        cargo = self._senders.cargo(load.size)
        same_size = load.size <= WARM_SIZE
        fault = stored.fault(folder, cargo, sent.instances + (warmed if same_size else 0))
        if not fault and sent.error and sent.admitted == load.associations:
            fault = sent.error
        if not fault and load.mode != "idle" and not sent.instances:
            fault = sent.error or "nothing was stored"
        return Run(**{**asdict(run), "void": fault}) if fault else run

    def _will_fill(self, receiver: Receiver, load: Load) -> int:
        """Return how many bytes of page cache a run will need, going by the one before it."""
        return int(1.5 * self._filled.get((receiver.name, load), SIZE))


@dataclass(frozen=True)
class _Numbers:
    cpu_seconds: float
    seconds: float
    others: float


def _figures(data_set_bytes: int, window: _Numbers, memory: PeakMemory, sent: Sent) -> Run:
    rate = sent.instances / sent.seconds if sent.seconds else 0.0
    each = 1000 / sent.instances if sent.instances else 0.0
    return Run(
        rate=rate,
        megabytes=rate * data_set_bytes / 1e6,
        cpu_ms=window.cpu_seconds * each,
        cpu_percent=100 * window.cpu_seconds / window.seconds,
        idle_bytes=memory.before,
        peak_bytes=memory.peak,
        instances=sent.instances,
        seconds=sent.seconds,
        admitted=sent.admitted,
        least=sent.least,
        most=sent.most,
        p50_ms=sent.p50_ms,
        p99_ms=sent.p99_ms,
        sender_cpu_ms=sent.cpu_seconds * each,
        others=window.others,
    )
