"""What was measured: the runs of each receiver under each load, and their medians."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.lab import Run
from bench.senders import Load
from bench.usage import CALM_SHARE

# Beyond this share of the cores taken by other programs, a run says more about them.
DISTURBED = CALM_SHARE


@dataclass(frozen=True)
class Summary:
    """Medians over the runs of one receiver under one load; `void` says why there are none."""

    runs: int
    rate: float
    slowest: float
    fastest: float
    megabytes: float
    cpu_ms: float
    cpu_percent: float
    peak_bytes: int
    growth_bytes: int
    admitted: int
    p50_ms: float
    p99_ms: float
    others: float
    void: str = ""


def calm(runs: list[Run]) -> list[Run]:
    """Return the runs that other programs left alone."""
    return [run for run in runs if run.others <= DISTURBED and not run.void]


def summary(runs: list[Run]) -> Summary:
    """Return the medians of the calm runs or, where there are none, of all; one wrong byte voids them all."""
    void = next((run.void for run in runs if run.void), "")
    used = calm(runs) or runs
    return Summary(
        runs=len(used),
        rate=median(run.rate for run in used),
        slowest=min(run.rate for run in used),
        fastest=max(run.rate for run in used),
        megabytes=median(run.megabytes for run in used),
        cpu_ms=median(run.cpu_ms for run in used),
        cpu_percent=median(run.cpu_percent for run in used),
        peak_bytes=int(median(run.peak_bytes for run in used)),
        growth_bytes=int(median(run.peak_bytes - run.idle_bytes for run in used)),
        admitted=int(median(run.admitted for run in used)),
        p50_ms=median(run.p50_ms for run in used),
        p99_ms=median(run.p99_ms for run in used),
        others=median(run.others for run in used),
        void=void,
    )


@dataclass
class Results:
    """All runs by load and receiver, in the order of the plan."""

    runs: dict[Load, dict[str, list[Run]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, load: Load, receiver: str, run: Run) -> None:
        """Keep a run."""
        self.of(load, receiver).append(run)

    def of(self, load: Load, receiver: str) -> list[Run]:
        """Return the runs so far of a receiver under a load."""
        return self.runs.setdefault(load, {}).setdefault(receiver, [])

    def get(self, receiver: str, **wanted: object) -> Summary | None:
        """Return the medians of a receiver under the load with these properties; None when not measured or void."""
        for load, receivers in self.runs.items():
            if all(getattr(load, name) == value for name, value in wanted.items()) and receivers.get(receiver):
                found = summary(receivers[receiver])
                return None if found.void else found
        return None

    def voids(self) -> list[str]:
        """Return a line for each receiver whose numbers under a load do not count."""
        return [
            f"{load.key}, {receiver}: {summary(runs).void}"
            for load, receivers in self.runs.items()
            for receiver, runs in receivers.items()
            if runs and summary(runs).void
        ]

    def as_json(self) -> list[dict[str, Any]]:
        """Return every run, as JSON can hold it."""
        return [
            {"load": load.key, "receiver": receiver, "runs": [run.as_json() for run in runs]}
            for load, receivers in self.runs.items()
            for receiver, runs in receivers.items()
        ]
