"""Where a run's time goes, by file: `make test ARGS=--times`."""

import resource
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

STARTED, SHOWN = pytest.StashKey[float](), 50
PHASES = ("setup", "call", "teardown")


@dataclass
class Times:
    """Seconds spent on a file's tests."""

    tests: int = 0
    phases: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    working: float = 0.0

    @property
    def total(self) -> float:
        """From begin to end."""
        return sum(self.phases.values())


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Give a report the processor time that went by since the test's last one."""
    now = cpu_seconds()
    report.__dict__.update(working_seconds=now - item.session.stash.get(STARTED, now))
    item.session.stash[STARTED] = now


def by_file(reports: Iterable[pytest.TestReport]) -> dict[str, Times]:
    """Add up what the reports say, by file."""
    found: dict[str, Times] = defaultdict(Times)
    for report in reports:
        times = found[report.nodeid.partition("::")[0]]
        times.tests += report.when == "call"
        times.phases[report.when or "call"] += report.duration
        times.working += getattr(report, "working_seconds", 0.0)
    return found


def lines(found: dict[str, Times]) -> Iterable[str]:
    """Return the longest files as a table: seconds by phase, and for how many of them a processor worked."""
    yield f"{'total':>8}{'set-up':>8}{'call':>8}{'end':>8}{'working':>9}{'tests':>7}  file"
    for name, times in sorted(found.items(), key=lambda one: -one[1].total)[:SHOWN]:
        phases = "".join(f"{times.phases[phase]:8.1f}" for phase in PHASES)
        yield f"{times.total:8.1f}{phases}{times.working:9.1f}{times.tests:7}  {name}"
    every = found.values()
    total, working = sum(one.total for one in every), sum(one.working for one in every)
    yield f"{total:8.1f}{'':24}{working:9.1f}{sum(one.tests for one in every):7}  all files"
