"""One measurement of a pipeline: a load goes in, all of it comes out, the figures and whether they count."""

import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.arrivals import Sending, arrived, fault, last_arrival, latencies, wait_for
from bench.network import LOOPBACK
from bench.receivers import Receiver, Running
from bench.senders import Load, Senders
from bench.usage import machine_user_seconds, user_seconds, wait_for_calm
from bench.ways import Way

CT = 524_288
PATIENCE_SECONDS = 30.0
WARM = Load(CT, 2, seconds=60, count=40)


@dataclass(frozen=True)
class Journey:
    """Figures of one load: instances/s from the first request to the last arrival, CPU ms each by part.

    `others` is the share of the cores that other programs' own code took meanwhile, `twice` what arrived again.
    """

    instances: int
    seconds: float
    acknowledged_rate: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    cpu_ms: dict[str, float]
    others: float = 0.0
    twice: int = 0
    void: str = ""

    @property
    def rate(self) -> float:
        """Return the instances per second that got through."""
        return self.instances / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self) | {"rate": self.rate}


@dataclass
class Journeys:
    """The rounds of each pipeline, by load and destination."""

    rounds: dict[tuple[str, str, str], list[Journey]] = field(default_factory=dict)

    def add(self, load: str, node: str, way: str, journey: Journey) -> None:
        """Keep a round."""
        self.rounds.setdefault((load, node, way), []).append(journey)

    def get(self, load: str, node: str, way: str) -> Journey | None:
        """Return the medians; None when there are none, or one of the rounds is void."""
        rounds = self.rounds.get((load, node, way), [])
        return _medians(rounds) if rounds and not any(one.void for one in rounds) else None

    def voids(self) -> list[str]:
        """Return a line for each round that does not count."""
        return [f"{way} to {node}, {load}: {one.void}" for (load, node, way), all_ in self.rounds.items()
                for one in all_ if one.void]  # fmt: skip


def travel(way: Way, node: Receiver, load: Load, senders: Senders, folder: Path, calm: float) -> Journey:
    """Send a load through a pipeline to a destination of its own, and check every byte of what arrives."""
    cargo = senders.cargo(load.size)
    running = Running(node, folder / "node", "127.0.0.1")
    answers, place = folder / "answers", running.folder
    try:
        way.send_to(running.port)
        before = way.delivered()
        senders.send(WARM, LOOPBACK, way.port, 0, lambda: None, folder / "warm")
        warmed = Sending.read(folder / "warm").keys()
        wait_for(lambda: len(arrived(place, cargo)), len(warmed), PATIENCE_SECONDS)
        wait_for_calm(calm)
        cpu, began, machine = way.cpu_seconds(), time.monotonic(), machine_user_seconds()
        ours = _user_seconds(way, running)
        sent = senders.send(load, LOOPBACK, way.port, 0, lambda: None, answers)
        sendings = Sending.read(answers)
        wait_for(lambda: len(arrived(place, cargo)), len(warmed) + len(sendings), PATIENCE_SECONDS)
        if before is not None:
            wanted = before + len(warmed) + len(sendings)
            if not wait_for(lambda: way.delivered() or 0, wanted, PATIENCE_SECONDS):
                return _void(f"{wanted} arrived, {way.delivered()} are recorded as delivered")
        ours = _user_seconds(way, running) - ours + sent.user_seconds
        cores = (time.monotonic() - began) * (os.cpu_count() or 1)
        others = max(0.0, (machine_user_seconds() - machine - ours) / cores)
        used = {name: seconds - cpu.get(name, 0.0) for name, seconds in way.cpu_seconds().items()}
    finally:
        running.stop()
    if sent.error or not sendings:
        return _void(sent.error or "nothing was sent")
    wrong = fault(place, cargo, set(sendings) | warmed)
    if wrong:
        return _void(wrong)
    took = latencies(place, cargo, sendings)
    journey = Journey(
        len(sendings),
        last_arrival(place, cargo) - min(one.began for one in sendings.values()),
        sent.instances / sent.seconds,
        1000 * took[len(took) // 2],
        1000 * took[len(took) * 99 // 100],
        1000 * took[-1],
        {name: 1000 * seconds / len(sendings) for name, seconds in used.items()},
        others,
        sum(len(paths) - 1 for paths in arrived(place, cargo).values()),
    )
    shutil.rmtree(folder)
    return journey


def _user_seconds(way: Way, node: Running) -> float:
    return sum(map(user_seconds, (*way.pids(), node.process.pid)))


def _void(why: str) -> Journey:
    return Journey(0, 0.0, 0.0, 0.0, 0.0, 0.0, {}, void=why)


def _medians(rounds: list[Journey]) -> Journey:
    def of(values: Iterable[float]) -> float:
        return median(list(values))

    parts = {name for one in rounds for name in one.cpu_ms}
    return Journey(
        round(of(one.instances for one in rounds)),
        of(one.seconds for one in rounds),
        of(one.acknowledged_rate for one in rounds),
        of(one.p50_ms for one in rounds),
        of(one.p99_ms for one in rounds),
        of(one.most_ms for one in rounds),
        {name: of(one.cpu_ms.get(name, 0.0) for one in rounds) for name in sorted(parts)},
        of(one.others for one in rounds),
        max(one.twice for one in rounds),
    )
