"""Shows what pipelines were measured to do: tables, targets, and docs/reference/benchmarks-pipeline.md."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import page as pages
from bench.journeys import Journey, Journeys
from bench.receivers import Missing
from bench.results import DISTURBED
from bench.targets import Verdict

MARKER = "<!-- below: written by `make bench-pipeline` -->"
OURS, THEIRS = ("bucky", "bucky, SeaweedFS", "bucky, MinIO"), ("Orthanc, Lua", "Orthanc, Lua, jobs not saved")
_COLUMNS = ("", "instances/s", "acknowledged/s", "p50 ms", "p99 ms", "most ms", "CPU ms each")


def verdicts(journeys: Journeys) -> list[Verdict]:
    """Return the verdict on every target."""
    return list(_verdicts(journeys))


def _verdicts(journeys: Journeys) -> Iterator[Verdict]:
    measured = dict.fromkeys((node, way) for _load, node, way in journeys.rounds if way in OURS)
    for node, ours in measured:
        steady = journeys.get("steady", node, ours)
        for name, most in (("p50", 250), ("p99", 1000)):
            value = getattr(steady, f"{name}_ms") if steady else None
            wanted, met = f"≤ {most}", value is not None and value <= most
            yield Verdict(f"{ours}, stored to delivered at {node}, steady load, {name} in ms", wanted, value, met)
        mine = journeys.get("burst", node, ours)
        for way in THEIRS:
            theirs = journeys.get("burst", node, way)
            ratio = mine.rate / theirs.rate if mine and theirs else None
            yield Verdict(f"sustained to {node}: {ours} / {way}", "> 1", ratio, ratio is not None and ratio > 1)


def show(console: Console, journeys: Journeys) -> None:
    """Print a table for each load and destination, and the CPU of each part."""
    for load, node in dict.fromkeys((load, node) for load, node, _way in journeys.rounds):
        table = Table(*_COLUMNS, title=f"{load}, to {node}", title_justify="left", header_style="dim")
        for way, journey in _ways(journeys, load, node).items():
            table.add_row(way, *_cells(journey))
        console.print(table)
        for way, journey in _ways(journeys, load, node).items():
            console.print(f"[dim]{way}: {_parts(journey)}")


def publish(
    page: Path, journeys: Journeys, found: list[Verdict], missing: list[Missing], machine: dict[str, Any]
) -> None:
    """Replace what is below the page's marker."""
    parts = [pages.machine_line(machine), pages.targets_table(found)]
    for load, node in dict.fromkeys((load, node) for load, node, _way in journeys.rounds):
        ways = _ways(journeys, load, node)
        rows = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
        rows += [f"| {way} | {' | '.join(_cells(journey))} |" for way, journey in ways.items()]
        parts.append(f"## {load.capitalize()}, to {node}\n\n" + "\n".join(rows))
        parts += [f"CPU of {way}, ms for each instance: {_parts(journey)}." for way, journey in ways.items()]
    left_out = [*(f"{one.name}: {one.reason}" for one in missing), *journeys.voids()]
    if left_out:
        parts.append("## Not measured\n\n" + "\n".join(f"- {line}" for line in left_out))
    pages.rewrite(page, MARKER, parts)


def _ways(journeys: Journeys, load: str, node: str) -> dict[str, Journey]:
    names = [way for one_load, one_node, way in journeys.rounds if (one_load, one_node) == (load, node)]
    found = {way: journeys.get(load, node, way) for way in sorted(names, key=lambda way: (way not in OURS, way))}
    return {way: journey for way, journey in found.items() if journey is not None}


def _cells(one: Journey) -> list[str]:
    mark = "~" if one.others > DISTURBED else ""
    cells = [f"{mark}{one.rate:.0f}", f"{one.acknowledged_rate:.0f}", f"{one.p50_ms:.0f}", f"{one.p99_ms:.0f}"]
    return [*cells, f"{one.most_ms:.0f}", f"{sum(one.cpu_ms.values()):.2f}"]


def _parts(one: Journey) -> str:
    largest = sorted(one.cpu_ms.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {used:.2f}" for name, used in largest if used >= 0.005)
